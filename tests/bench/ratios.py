#!/usr/bin/env python3
"""Prints a table of what `run.sh` measured, with the ratio to each peer at the same load; of several rounds the medians, and the
least and the greatest rate. Usage: ratios.py FILE.jsonl"""
import json
import statistics
import sys

rows = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
for row in rows:
    if "conditions" in row:
        c = row["conditions"]
        print(f"{c['date']}: {c['cores']} cores of {c['cpu']}, load {c['load_average']:.1f}, "
              f"fdatasync p50 {c['fdatasync_512_ms']['p50']:.2f} ms, p99 {c['fdatasync_512_ms']['p99']:.2f} ms")
key = lambda row: tuple(row["load"][name] for name in ("runs", "steps", "concurrency"))
rounds = {}
for row in rows:
    if "engine" in row:
        rounds.setdefault((key(row), row["engine"]), []).append(row)
median = lambda all, get: statistics.median(get(row) for row in all)
rate = {which: median(all, lambda row: row["steps_per_second"]) for which, all in rounds.items()}
peers = sorted({engine for _, engine in rounds} - {"sealflow", "sealflow over gRPC"})
print("\n| runs × steps, at a time | engine | durable steps/s | least, most | step p50 / p99 ms | " + " | ".join(f"ratio to {peer}" for peer in peers) + " |")
print("|---|---|---|---|---|" + "---|" * len(peers))
for (load, engine), all in rounds.items():
    rates = [row["steps_per_second"] for row in all]
    shown = "not told"
    if "step_latency_ms" in all[0]:
        shown = " / ".join(f"{median(all, lambda row: row['step_latency_ms'][p]):.2f}" for p in ("p50", "p99"))
    ratios = ["" if peer == engine or (load, peer) not in rate else f"{rate[load, engine] / rate[load, peer]:.2f}" for peer in peers]
    name = engine + (f" {all[0]['version']}" if engine in peers else "")
    print(f"| {load[0]} × {load[1]}, {load[2]} | {name} | {rate[load, engine]:,.0f} | {min(rates):,.0f}, {max(rates):,.0f} | {shown} | " + " | ".join(ratios) + " |")
