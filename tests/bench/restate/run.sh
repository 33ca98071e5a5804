#!/usr/bin/env bash
# Starts a Restate server and a handler on this machine, measures, and stops both. Usage: run.sh FOLDER [RUNS STEPS CONCURRENCY]...
# FOLDER keeps the packages and, for the time of the run, the data: its disk is what is measured.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$1; shift
mkdir -p "$folder"
cp "$here"/package.json "$here"/*.mjs "$folder"/
cd "$folder"
[ -d node_modules ] || npm install --silent >&2
rm -rf data
printf 'base-dir = "%s/data"\nbind-address = "127.0.0.1:5122"\ndisable-telemetry = true\nlog-filter = "error"\n[admin]\nbind-address = "127.0.0.1:9070"\n[ingress]\nbind-address = "127.0.0.1:8080"\n' "$folder" > restate.toml
node_modules/.bin/restate-server --config-file restate.toml > server.log 2>&1 &
server=$!
RESTATE_LOGGING=ERROR node handler.mjs > handler.log 2>&1 &
handler=$!
trap 'kill $server $handler 2>/dev/null; wait 2>/dev/null; rm -rf data' EXIT
for _ in $(seq 100); do
  curl -fs http://127.0.0.1:9070/health > /dev/null && curl -fs http://127.0.0.1:8080/restate/health > /dev/null && break
  sleep 0.2
done
while [ $# -ge 3 ]; do node bench.mjs "$1" "$2" "$3"; shift 3; done
