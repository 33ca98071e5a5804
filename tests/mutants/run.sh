#!/usr/bin/env bash
# Proves that the engine's tests bite: each patch beside this script seeds one fault into a scratch copy
# of the last commit, and the test that the first line of the patch names must fail on it. Ends with an
# error if a fault survives, is found only by others, does not apply or does not compile.
#
#   tests/mutants/run.sh [PATCH...]
#
# With SEALFLOW_NAMED_ONLY=1 only the named test runs on each fault, which is quicker.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repo/target}
# A fault that needs more random cases than this is found by luck.
export SEALFLOW_CASES=${SEALFLOW_CASES:-100}
# That a test fails is enough; why is not asked here.
export PROPTEST_MAX_SHRINK_ITERS=0 RUST_BACKTRACE=0
scratch=$(mktemp -d)
copy=$scratch/copy
log=$scratch/log
trap 'git -C "$repo" worktree remove --force "$copy"; rm -rf "$scratch"' EXIT
git -C "$repo" worktree add --quiet --detach "$copy" HEAD
cd "$copy"

patches=("$@")
[ ${#patches[@]} -gt 0 ] || patches=("$here"/*.patch)
named_by() {
    sed -n '1s/^# .*Must fail: \([A-Za-z0-9_:]*\)$/\1/p' "$1"
}

# The engine is built anew for every fault: quickly, at the price of slower tests.
export CARGO_INCREMENTAL=1
engine=profile.release.package.sealflow-engine
tests=(cargo --config "$engine.opt-level=1" --config "$engine.debug=0"
    test --quiet --release --locked -p sealflow-engine --lib)
only=()
if [ -n "${SEALFLOW_NAMED_ONLY:-}" ]; then
    only=(-- --exact)
    for patch in "${patches[@]}"; do only+=("$(named_by "$patch")"); done
fi
if ! "${tests[@]}" "${only[@]}" >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "the tests fail without any fault" >&2
    exit 1
fi

bad=0
printf '| %-38s | %-8s | %s |\n' fault result 'tests that fail, the named one first'
printf '|%s|%s|%s|\n' ---------------------------------------- ---------- ---
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    named=$(named_by "$patch")
    only=()
    [ -z "${SEALFLOW_NAMED_ONLY:-}" ] || only=(-- --exact "$named")
    failing=
    if [ -z "$named" ]; then
        result='no name' bad=1
    elif ! git apply "$patch"; then
        result='no fit' bad=1
    elif ! "${tests[@]}" --no-run >"$log" 2>&1; then
        result='no build' failing=$(grep -m 1 '^error' "$log" || true) bad=1
    elif timeout 900 "${tests[@]}" "${only[@]}" >"$log" 2>&1; then
        result=SURVIVED bad=1
    else
        all=$(sed -n 's/^    \([a-z_:]*::[a-z0-9_]*\)$/\1/p' "$log" | sort -u)
        if grep -qx "$named" <<<"$all"; then
            result=killed failing="**$named** $(grep -vx "$named" <<<"$all" | paste -sd ' ' || true)"
        else
            result=MISSED failing="not $named, but $(paste -sd ' ' <<<"$all")" bad=1
        fi
    fi
    printf '| %-38s | %-8s | %s |\n' "$name" "$result" "$failing"
    git checkout --quiet .
done
exit $bad
