//! A test suite that runs commands, counts its tests and ends with the line `N passed, N failed`.

use std::process::Command;

use crate::counts::Counts;
use crate::log::Log;
use crate::{Result, process};

/// The counts of a running suite.
#[derive(Debug, Default)]
pub struct Suite(Counts);

impl Suite {
    /// Creates a suite without tests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs one test and returns whether it passed. Its log is printed if it fails, or if VERBOSE is set.
    pub fn check(&mut self, name: &str, test: impl FnOnce(&mut Log) -> Result) -> bool {
        self.report(name, test, std::env::var_os("VERBOSE").is_some())
    }

    /// Runs one test and prints its log in any case.
    pub fn check_aloud(&mut self, name: &str, test: impl FnOnce(&mut Log) -> Result) -> bool {
        self.report(name, test, true)
    }

    fn report(&mut self, name: &str, test: impl FnOnce(&mut Log) -> Result, aloud: bool) -> bool {
        let outcome = Log::new().map(|mut log| {
            let outcome = test(&mut log);
            if let Err(error) = &outcome {
                log.say(&error.to_string());
            }
            (outcome.is_ok(), log.text())
        });
        let (passed, text) = outcome.unwrap_or_else(|error| (false, error.to_string()));
        process::print_line(format!("{} {name}", if passed { "ok" } else { "FAILED" }));
        if !passed || aloud {
            text.lines().for_each(|line| process::print_line(format!("    {line}")));
        }
        self.0 += Counts::one(passed);
        passed
    }

    /// Runs a command that prints many tests, counts them and prints all of its output.
    pub fn count(&mut self, name: &str, command: Command) {
        self.count_made(name, || Ok(command));
    }

    /// As `count`, for a command that a function makes. If it fails, that is one failed test.
    pub fn count_made(&mut self, name: &str, make: impl FnOnce() -> Result<Command>) {
        self.count_output(name, |text| {
            let status = process::each_line(make()?, |line| {
                process::print(line);
                text.push_str(line);
            })?;
            Ok(status.success())
        });
    }

    /// Counts the tests in an output that a function collects and prints. The function returns whether the command succeeded.
    pub fn count_output(&mut self, name: &str, collect: impl FnOnce(&mut String) -> Result<bool>) {
        process::print_line(format!("== {name}"));
        let mut text = String::new();
        let success = collect(&mut text).unwrap_or_else(|error| {
            process::print_line(format!("error: {error}"));
            false
        });
        let counts = Counts::of(success, &text);
        if counts.failed > 0 {
            process::print_line(format!("FAILED {name}"));
        }
        self.0 += counts;
    }

    /// Whether a test has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.failed > 0
    }

    /// Prints the last line, and returns whether all tests passed.
    #[must_use]
    pub fn end(self) -> bool {
        process::print_line(self.0);
        !self.has_failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::ensure;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn checks_are_counted_by_their_results() {
        let mut suite = Suite::new();
        assert!(suite.check("passes", |log| log.run(&mut shell("true"))));
        assert!(!suite.check("fails", |_| ensure(false, "the reason")));
        assert!(!suite.check("exits with 3", |log| log.run(&mut shell("exit 3"))));
        assert!(!suite.check("is killed", |log| log.run(&mut shell("kill -9 $$"))));
        assert!(!suite.check("is missing", |log| log.run(&mut Command::new("no-such-program"))));
        assert_eq!(suite.0, Counts { passed: 1, failed: 4 });
        assert!(!suite.end());
    }

    #[test]
    fn commands_are_counted_by_their_output() {
        let mut suite = Suite::new();
        suite.count("passes", shell("echo 5 passed, 0 failed"));
        suite.count("reports a failure", shell("echo 5 passed, 1 failed"));
        suite.count("is killed", shell("echo 5 passed, 0 failed; kill -9 $$"));
        suite.count_made("cannot be made", || Err("no compiler".into()));
        suite.count_output("prints nothing", |_| Ok(true));
        assert_eq!(suite.0, Counts { passed: 15, failed: 4 });
    }

    #[test]
    fn log_has_output_and_errors_in_their_order() {
        let mut log = Log::new().unwrap();
        log.run(&mut shell("echo a; echo b >&2")).unwrap();
        assert_eq!(log.output(&mut shell("echo c; echo d >&2")).unwrap(), "c");
        let error = log.output(&mut shell("echo e; exit 1")).unwrap_err().to_string();
        assert_eq!(log.text(), "a\nb\nd\nc\ne\n");
        assert_eq!(error, "sh -c echo e; exit 1: exit status: 1");
    }
}
