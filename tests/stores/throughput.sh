#!/bin/sh
# Puts a file into stores and gets it back, and does the same with cp and with the AWS command line (of PyPI), one after
# the other, ROUNDS times. Prints one line of JSON a measurement. Usage: throughput.sh EXAMPLE FOLDER [MIB] [ROUNDS]
set -eu
example=$1
folder=$2
mib=${3:-1024}
rounds=${4:-5}
mkdir -p "$folder"
[ -x "$folder/venv/bin/aws" ] || { python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" -q install awscli; }
rm -rf "$folder/work" && mkdir -p "$folder/work/server"
work=$folder/work
head -c "$((mib << 20))" /dev/urandom > "$work/file"
"$example" serve "$work/server" & server=$!
trap 'kill $server' EXIT
until [ -s "$work/server/address" ]; do sleep 0.1; done
address=$(cat "$work/server/address")
place=$address,$work/server/credentials
export AWS_SHARED_CREDENTIALS_FILE="$work/server/credentials" AWS_DEFAULT_REGION=us-east-1
export AWS_REQUEST_CHECKSUM_CALCULATION=when_required AWS_RESPONSE_CHECKSUM_VALIDATION=when_required
aws() { "$folder/venv/bin/aws" --endpoint-url "$address" "$@" > /dev/null; }
now() { date +%s.%N; }
# Runs a command of others, and says how long it took.
other() {
    what=$1 who=$2; shift 2
    begun=$(now); "$@"; ended=$(now)
    awk -v a="$begun" -v b="$ended" -v what="$what" -v who="$who" -v n="$((mib << 20))" -v r="$round" \
        'BEGIN { printf "{\"round\":%d,\"who\":\"%s\",\"what\":\"%s\",\"seconds\":%.3f,\"bytes\":%d}\n", r, who, what, b - a, n }'
}
# Runs ours, and adds who it was.
ours() {
    what=$1 kind=$2 where=$3 file=$4
    "$example" "$what" "$kind" "$where" "$file" | sed "s/^{/{\"round\":$round,\"who\":\"sealflow\",\"what\":\"$what $kind\",/"
}
durably() { cp "$1" "$2" && sync "$2" "$(dirname "$2")"; }
versions=$("$folder/venv/bin/aws" --version 2>&1)
printf '{"date":"%s","mib":%d,"cpus":%d,"load":"%s","aws":"%s"}\n' "$(date -u +%FT%TZ)" "$mib" "$(nproc)" "$(cut -d' ' -f1-3 /proc/loadavg)" "$versions"
round=1
while [ "$round" -le "$rounds" ]; do
    rm -rf "$work/folder" "$work/copy" "$work/back" "$work/server/sectors/bench" "$work/server/sectors/other"
    other "put folder" cp durably "$work/file" "$work/copy"
    ours put folder "$work/folder" "$work/file"
    rm -f "$work/back"
    other "get folder" cp durably "$work/copy" "$work/back"
    rm -f "$work/back"
    ours get folder "$work/folder" "$work/back"
    other "put s3" aws aws s3 cp "$work/file" s3://sectors/other
    ours put s3 "$place" "$work/file"
    rm -f "$work/back"
    other "get s3" aws aws s3 cp s3://sectors/other "$work/back"
    rm -f "$work/back"
    ours get s3 "$place" "$work/back"
    round=$((round + 1))
done
