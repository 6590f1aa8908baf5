# shellcheck shell=bash
# Counts checks, for scripts that end with `N passed, N failed`. To be sourced.

passed=0 failed=0

# check NAME COMMAND...: one check, by its exit code.
check() {
    echo "== $1"
    if "${@:2}"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $1" >&2
    fi
}

# count NAME COMMAND...: many tests, by what the command prints of them. One that fails without a failed test (it did not
# build, or printed no count) is a failure of its own.
count() {
    local log status p f
    log=$(mktemp)
    echo "== $1"
    "${@:2}" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    if [[ $(tail -1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]}
    else
        # `test result: ok. 3 passed; 0 failed; ...` of cargo.
        p=$(sed -nE 's/^test result: [a-zA-Z]+\. ([0-9]+) passed;.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
        f=$(sed -nE 's/^test result: [a-zA-Z]+\. [0-9]+ passed; ([0-9]+) failed.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
    fi
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ] || [ "$p" -eq 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    [ "$f" -eq 0 ] || echo "FAILED: $1" >&2
    passed=$((passed + p)) failed=$((failed + f))
    rm -f "$log"
}
