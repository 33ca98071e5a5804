#!/usr/bin/env bash
# Measures sealflow and its peers on this machine, one after the other, and prints one JSON object a line.
# Usage: run.sh SEALFLOW FOLDER [ROUNDS]   (FOLDER is on the disk that is measured; packages of the peers are kept there;
# every engine has every load once in a round, so that what the machine does besides harms all of them)
# Peers come from public registries (npm, PyPI, crates.io); a peer whose tool (node, python3, cargo) is missing is told and left out.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sealflow=$1 folder=$2 rounds=${3:-1}
mkdir -p "$folder/home"
loads=("100 10 1" "1000 10 50" "2000 10 200")
note() { printf '%s\n' "$*" >&2; }
conditions() {
  python3 - "$folder" <<'P'
import json, os, platform, sys, time
probe = os.path.join(sys.argv[1], "fsync.probe")
times = []
with open(probe, "wb") as file:
    for _ in range(200):
        begun = time.perf_counter()
        file.write(b"x" * 512); file.flush(); os.fdatasync(file.fileno())
        times.append((time.perf_counter() - begun) * 1e3)
os.remove(probe)
times.sort()
model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
print(json.dumps({"conditions": {"date": time.strftime("%Y-%m-%d %H:%M"), "cores": os.cpu_count(), "cpu": model, "kernel": platform.release(),
    "load_average": os.getloadavg()[0], "fdatasync_512_ms": {"p50": times[100], "p99": times[198]}}}))
P
}
ours() { "$sealflow" --home "$folder/home" bench engine --json --folder "$folder" --runs "$1" --steps "$2" --concurrency "$3" --remote "$4" | python3 -c \
  'import json, sys; value = json.load(sys.stdin); value["engine"] = "sealflow" + (" over gRPC" if value["load"]["remote"] else ""); print(json.dumps(value))'; }
conditions
for _ in $(seq "$rounds"); do
  for load in "${loads[@]}"; do
    read -r runs steps concurrency <<< "$load"
    note "$runs runs of $steps steps, $concurrency at a time"
    ours "$runs" "$steps" "$concurrency" 0
    ours "$runs" "$steps" "$concurrency" 1
    if command -v cargo > /dev/null; then
      (cd "$here/durare" && CARGO_TARGET_DIR="$folder/durare-target" cargo build --release --locked --quiet >&2)
      rm -f "$folder"/durare.sqlite*
      "$folder/durare-target/release/bench-durare" "$folder/durare.sqlite" "$runs" "$steps" "$concurrency"
    else note "no cargo: durare is left out"; fi
    if command -v node > /dev/null; then "$here/restate/run.sh" "$folder/restate" "$runs" "$steps" "$concurrency"; else note "no node: restate is left out"; fi
  done
done
if command -v python3 > /dev/null; then
  [ -d "$folder/venv" ] || { python3 -m venv "$folder/venv"; "$folder/venv/bin/pip" install -q dbos==3.4.0 >&2; }
  for load in "20 10 1" "40 10 20"; do
    read -r runs steps concurrency <<< "$load"
    rm -f "$folder"/dbos.sqlite*
    "$folder/venv/bin/python" "$here/dbos/bench.py" "sqlite:///$folder/dbos.sqlite" "$runs" "$steps" "$concurrency" | tail -n 1
  done
fi
conditions
