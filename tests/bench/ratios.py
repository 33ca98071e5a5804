#!/usr/bin/env python3
"""Prints a table of what `run.sh` measured, with the ratio to each peer at the same load. Usage: ratios.py FILE.jsonl"""
import json
import sys

rows = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
for row in rows:
    if "conditions" in row:
        c = row["conditions"]
        print(f"{c['date']}: {c['cores']} cores of {c['cpu']}, load {c['load_average']:.1f}, "
              f"fdatasync p50 {c['fdatasync_512_ms']['p50']:.2f} ms, p99 {c['fdatasync_512_ms']['p99']:.2f} ms")
measured = [row for row in rows if "engine" in row]
key = lambda row: tuple(row["load"][name] for name in ("runs", "steps", "concurrency"))
peers = sorted({row["engine"] for row in measured} - {"sealflow", "sealflow over gRPC"})
print("\n| runs × steps, at a time | engine | durable steps/s | step p50 / p99 ms | " + " | ".join(f"ratio to {peer}" for peer in peers) + " |")
print("|---|---|---|---|" + "---|" * len(peers))
for row in measured:
    runs, steps, at_a_time = key(row)
    latency = row.get("step_latency_ms")
    shown = f"{latency['p50']:.2f} / {latency['p99']:.2f}" if latency else "not told"
    ratios = []
    for peer in peers:
        other = next((one for one in measured if one["engine"] == peer and key(one) == key(row)), None)
        same = row["engine"] == peer
        ratios.append("" if other is None or same else f"{row['steps_per_second'] / other['steps_per_second']:.2f}")
    name = row["engine"] + (f" {row['version']}" if row["engine"] in peers else "")
    print(f"| {runs} × {steps}, {at_a_time} | {name} | {row['steps_per_second']:,.0f} | {shown} | " + " | ".join(ratios) + " |")
