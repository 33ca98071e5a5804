#!/usr/bin/env python3
"""Measures DBOS on a Postgres or SQLite database: workflows of so many durable steps that do nothing.

Usage: bench.py DATABASE_URL RUNS STEPS CONCURRENCY  (prints one JSON object)
"""
import importlib.metadata
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS, DBOSConfig

url, runs, steps, concurrency = sys.argv[1], *map(int, sys.argv[2:5])
DBOS(config=DBOSConfig(name="bench", system_database_url=url, run_admin_server=False, log_level="ERROR"))


@DBOS.step()
def nothing() -> None:
    return None


@DBOS.workflow()
def chain(count: int) -> int:
    for _ in range(count):
        nothing()
    return count


def drive(count: int):
    def one(_):
        begun = time.perf_counter()
        assert chain(steps) == steps
        return (time.perf_counter() - begun) * 1e3

    begun = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        times = sorted(pool.map(one, range(count)))
    return time.perf_counter() - begun, times


DBOS.launch()
drive(min(runs, 20))
seconds, times = drive(runs)
print(json.dumps({
    "engine": "dbos", "version": importlib.metadata.version("dbos"),
    "load": {"runs": runs, "steps": steps, "concurrency": concurrency},
    "seconds": seconds, "steps_per_second": runs * steps / seconds,
    "run_ms": {"p50": times[len(times) // 2], "p99": times[min(len(times) - 1, len(times) * 99 // 100)]},
    "durability": "its database's: " + url.split(":")[0],
}))
DBOS.destroy()
