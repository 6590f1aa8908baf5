//! Counts tests by what a command prints about them.

use std::fmt;
use std::ops::AddAssign;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The tests that passed.
    pub passed: u64,
    /// The tests that failed.
    pub failed: u64,
}

impl Counts {
    /// One test.
    #[must_use]
    pub fn one(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into() }
    }

    /// Counts the tests in the output of a command. It understands the last line of our own suites, cargo test, `go test -v` and
    /// pytest; a test that pytest skips has failed. A command that fails without a failed test (because it did not build, or was
    /// killed), or that prints no test, is one failure.
    #[must_use]
    pub fn of(success: bool, output: &str) -> Self {
        let mut counts = output.lines().last().and_then(total).unwrap_or_else(|| {
            let mut sum = Self::default();
            output.lines().for_each(|line| sum += of_line(line));
            sum
        });
        if counts.failed == 0 && (!success || counts.passed == 0) {
            counts.failed = 1;
        }
        counts
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Returns the counts of the line `N passed, N failed`.
fn total(line: &str) -> Option<Counts> {
    let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
    Some(Counts { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
}

/// Returns the counts of one line of cargo test, `go test -v` or pytest.
fn of_line(line: &str) -> Counts {
    if line.starts_with("test result: ") {
        Counts { passed: before(line, "passed"), failed: before(line, "failed") }
    } else if line.starts_with("--- PASS") || line.starts_with("--- FAIL") {
        Counts::one(line.starts_with("--- PASS"))
    } else if is_pytest_summary(line) {
        let failed = ["failed", "error", "skipped"].iter().map(|word| before(line, word)).sum();
        Counts { passed: before(line, "passed"), failed }
    } else {
        Counts::default()
    }
}

/// Returns the sum of the numbers before words that begin with a text.
fn before(line: &str, begin: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let pairs = words.iter().zip(words.iter().skip(1));
    pairs
        .filter(|(_, word)| word.starts_with(begin))
        .filter_map(|(number, _)| number.parse::<u64>().ok())
        .sum()
}

/// Returns whether a line is pytest's last one, such as `== 3 passed, 1 warning in 30.21s ==`.
fn is_pytest_summary(line: &str) -> bool {
    let Some((tests, time)) = line.split_once(" in ") else { return false };
    let seconds = time.split_whitespace().next().and_then(|time| time.strip_suffix('s'));
    seconds.is_some_and(|seconds| seconds.parse::<f64>().is_ok())
        && ["passed", "failed", "error", "skipped"].iter().any(|word| before(tests, word) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARGO: &str =
        "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out; finished in 2.40s\n";

    fn check(passed: u64, failed: u64, success: bool, output: &str) {
        assert_eq!(Counts::of(success, output), Counts { passed, failed }, "{output}");
    }

    #[test]
    fn cargo_test_is_summed() {
        check(10, 0, true, &CARGO.repeat(2));
    }

    #[test]
    fn cargo_test_with_failures() {
        let text = "test result: FAILED. 3 passed; 2 failed; 0 ignored; finished in 0.01s\nerror: x\n";
        check(3, 2, false, text);
    }

    #[test]
    fn cargo_test_that_does_not_build_is_a_failure() {
        check(0, 1, false, "error: could not compile\n");
    }

    #[test]
    fn go_test_counts_top_level_tests() {
        let text = "--- PASS: A (0.1s)\n    --- PASS: A/b (0.1s)\n--- PASS: B (0.0s)\nok  \tpackage\t0.3s\n";
        check(2, 0, true, text);
    }

    #[test]
    fn go_test_with_a_failure() {
        check(1, 1, false, "--- PASS: A (0.1s)\n--- FAIL: B (0.1s)\nFAIL\n");
    }

    #[test]
    fn pytest_is_counted() {
        check(214, 0, true, "==== 214 passed, 1 warning in 30.21s ====\n");
        check(1, 0, true, "1 passed in 1s");
    }

    #[test]
    fn pytest_failures_and_skipped_tests_fail() {
        check(213, 3, false, "1 failed, 213 passed, 2 skipped in 30.21s (0:00:30)\n");
        check(0, 2, false, "=== 2 errors in 0.10s ===\n");
    }

    #[test]
    fn last_line_of_a_suite_replaces_all_others() {
        check(7, 0, true, &format!("{CARGO}7 passed, 0 failed\n"));
    }

    #[test]
    fn suite_that_dies_after_its_last_test_fails() {
        check(7, 1, false, "7 passed, 0 failed\n");
    }

    #[test]
    fn suite_that_prints_more_after_its_last_line_fails() {
        check(0, 1, true, "7 passed, 0 failed\nkilled\n");
    }

    #[test]
    fn failures_count_even_if_the_command_succeeds() {
        check(7, 2, true, "7 passed, 2 failed\n");
    }

    #[test]
    fn last_line_that_is_no_count_is_ignored() {
        for line in
            ["-7 passed, 0 failed", "seven passed, 0 failed", "7 passed, 0 failed!", "7 passed,0 failed"]
        {
            check(0, 1, true, line);
        }
        check(0, 1, true, "99999999999999999999999 passed, 0 failed");
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        check(0, 1, true, "");
        check(0, 1, true, "0 passed, 0 failed\n");
    }
}
