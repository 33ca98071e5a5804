#!/usr/bin/env python3
"""Computes the table of docs/benchmarks.md from what throughput.sh printed."""
import json
import statistics
import sys

lines = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
runs = [line for line in lines if "who" in line]
print("| | sealflow | other | ratio (median of rounds) | most memory |")
print("|---|---|---|---|---|")
for what in ["put folder", "get folder", "put s3", "get s3"]:
    ours = {run["round"]: run for run in runs if run["what"] == what and run["who"] == "sealflow"}
    others = {run["round"]: run for run in runs if run["what"] == what and run["who"] != "sealflow"}
    rate = lambda of: statistics.median(run["bytes"] / run["seconds"] for run in of.values()) / 2**20
    ratio = statistics.median(others[at]["seconds"] / ours[at]["seconds"] for at in ours)
    memory = max(run["peak_memory"] for run in ours.values()) / 2**20
    who = next(iter(others.values()))["who"]
    print(f"| {what} | {rate(ours):.0f} MiB/s | {who} {rate(others):.0f} MiB/s | {ratio:.2f} | {memory:.0f} MiB |")
