#!/usr/bin/env bash
# Proves that the engine's tests bite: each patch beside this script seeds one fault into a scratch copy
# of the last commit, and the tests must fail on it. Ends with an error if a fault survives, does not
# apply or does not compile.
#
#   tests/mutants/run.sh [PATCH...]
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repo/target}
# A fault that needs more random cases than this is found by luck.
export SEALFLOW_CASES=${SEALFLOW_CASES:-100}
scratch=$(mktemp -d)
copy=$scratch/copy
log=$scratch/log
trap 'git -C "$repo" worktree remove --force "$copy"; rm -rf "$scratch"' EXIT
git -C "$repo" worktree add --quiet --detach "$copy" HEAD
cd "$copy"

tests=(cargo test --quiet --release --locked -p sealflow-engine --lib)
if ! "${tests[@]}" >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "the tests fail without any fault" >&2
    exit 1
fi

patches=("$@")
[ ${#patches[@]} -gt 0 ] || patches=("$here"/*.patch)
bad=0
printf '| %-28s | %-8s | %s |\n' fault result 'tests that fail'
printf '|%s|%s|%s|\n' ------------------------------ ---------- ---
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    git apply "$patch"
    if ! "${tests[@]}" --no-run >"$log" 2>&1; then
        result='no build' failing=$(grep -m 1 '^error' "$log" || true) bad=1
    elif timeout 600 "${tests[@]}" >"$log" 2>&1; then
        result=SURVIVED failing='' bad=1
    else
        result=killed
        failing=$(sed -n 's/^    \([a-z_:]*tests::[a-z_]*\)$/\1/p' "$log" | sort -u | paste -sd ' ')
    fi
    printf '| %-28s | %-8s | %s |\n' "$name" "$result" "$failing"
    git apply --reverse "$patch"
done
exit $bad
