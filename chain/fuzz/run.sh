#!/bin/sh
# Builds the targets with instrumentation, on the pinned toolchain, and runs each for so many seconds (default 300).
# What is found is in artifacts/TARGET. The corpus is kept in corpus/TARGET, and begins with seeds/TARGET.
set -eu
cd "$(dirname "$0")"
seconds="${1:-300}"
# The flags of cargo-fuzz without a sanitizer, which all work on a stable toolchain. Build scripts and macros are not
# instrumented, because a target is named.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
export RUSTFLAGS
host="$(rustc -vV | sed -n 's/^host: //p')"
folder="${CARGO_TARGET_DIR:-target}/fuzz"
cargo build --release --target "$host" --target-dir "$folder"
for target in params messages rpc policy; do
    mkdir -p "corpus/$target" "artifacts/$target"
    "$folder/$host/release/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target"
done
