#!/usr/bin/env bash
# Proves that the tests of the engine and of the journal bite: each patch beside this script seeds one fault
# into a scratch copy of the last commit, and the test that the first line of the patch names must fail on it.
# Ends with an error if a fault survives, is found only by others, does not apply or does not compile.
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

# The tests of the package that a patch changes. It is built anew for every fault: quickly, at the price of slower
# tests. The journal's are built beside the program, whose choice of features for the database they share.
export CARGO_INCREMENTAL=1
tests_of() {
    local package=sealflow-engine select=(-p sealflow-engine)
    if grep -q '^+++ b/storage/' "$1"; then
        package=sealflow-storage select=(-p sealflow -p sealflow-storage)
    fi
    local profile=profile.release.package.$package
    tests=(cargo --config "$profile.opt-level=1" --config "$profile.debug=0"
        test --quiet --release --locked "${select[@]}" --lib)
}

# Without any fault the tests must pass.
declare -A clean=()
for patch in "${patches[@]}"; do
    tests_of "$patch"
    clean["${tests[*]}"]+=" $(named_by "$patch")"
done
for command in "${!clean[@]}"; do
    only=()
    [ -z "${SEALFLOW_NAMED_ONLY:-}" ] || only=(-- --exact ${clean[$command]})
    if ! $command "${only[@]}" >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "the tests fail without any fault" >&2
        exit 1
    fi
done

bad=0
printf '| %-38s | %-8s | %s |\n' fault result 'tests that fail, the named one first'
printf '|%s|%s|%s|\n' ---------------------------------------- ---------- ---
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    named=$(named_by "$patch")
    tests_of "$patch"
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
