# shellcheck shell=bash
# Counts tests for scripts that end with the line `N passed, N failed`. To be sourced.
# A script calls check or count for each test and ends with totals.

passed=0 failed=0

# check NAME COMMAND...: one test, by the command's exit status. Its output is printed if it fails, or if VERBOSE is set.
# The command runs in a subshell: an exit in it fails this check only.
check() {
    local log status
    log=$(mktemp)
    ("${@:2}") >"$log" 2>&1
    status=$?
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok $1"
    else
        failed=$((failed + 1))
        echo "FAILED $1"
    fi
    if [ "$status" -ne 0 ] || [ -n "${VERBOSE:-}" ]; then sed 's/^/    /' "$log"; fi
    rm -f "$log"
}

# count NAME COMMAND...: many tests, by what the command prints about them. All of its output is printed.
count() {
    local log
    log=$(mktemp)
    echo "== $1"
    ("${@:2}") 2>&1 | tee "$log"
    add_counts "$1" "${PIPESTATUS[0]}" "$log"
    rm -f "$log"
}

# add_counts NAME STATUS LOG: adds the tests in the output of a command. It understands the last line of our own scripts, cargo
# test, `go test -v` and pytest; a test that pytest skips has failed. A command that fails without a failed test (because it did
# not build, or died), or that prints no test, is one failure.
add_counts() {
    local p f
    read -r p f < <(awk '
        /^[0-9]+ passed, [0-9]+ failed$/ { ours = NR; our_passed = $1; our_failed = $3 }
        /^test result: / { passed += $4; failed += $6; next }
        /^--- PASS/ { passed++ }
        /^--- FAIL/ { failed++ }
        /[0-9]+ (passed|failed|errors?|skipped).* in [0-9.]+s/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passed += $(i - 1)
                if ($i ~ /^(failed|error|skipped)/) failed += $(i - 1)
            }
        }
        END { if (NR && ours == NR) print our_passed, our_failed; else print passed + 0, failed + 0 }' "$3")
    if [ "$f" -eq 0 ] && { [ "$2" -ne 0 ] || [ "$p" -eq 0 ]; }; then
        f=1
    fi
    [ "$f" -eq 0 ] || echo "FAILED $1"
    passed=$((passed + p)) failed=$((failed + f))
}

# totals: prints the last line; fails if a test failed.
totals() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
