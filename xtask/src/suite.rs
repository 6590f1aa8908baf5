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
        println!("{} {name}", if passed { "ok" } else { "FAILED" });
        if !passed || aloud {
            text.lines().for_each(|line| println!("    {line}"));
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
                print!("{line}");
                text.push_str(line);
            })?;
            Ok(status.success())
        });
    }

    /// Counts the tests in an output that a function collects and prints. The function returns whether the command succeeded.
    pub fn count_output(&mut self, name: &str, collect: impl FnOnce(&mut String) -> Result<bool>) {
        println!("== {name}");
        let mut text = String::new();
        let success = collect(&mut text).unwrap_or_else(|error| {
            println!("error: {error}");
            false
        });
        let counts = Counts::of(success, &text);
        if counts.failed > 0 {
            println!("FAILED {name}");
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
        println!("{}", self.0);
        !self.has_failed()
    }
}
