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
