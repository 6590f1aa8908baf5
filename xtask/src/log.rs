//! The output of one check, which is printed if the check fails.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Command, Stdio};

use crate::Result;
use crate::process::{cannot_start, check};

/// A file that takes the output of commands.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// Creates an empty log.
    ///
    /// # Errors
    ///
    /// Fails if there is no temporary file.
    pub fn new() -> Result<Self> {
        let scratch = crate::scratch::Scratch::new()?;
        let file = File::options().read(true).append(true).create_new(true).open(scratch.join("log"))?;
        Ok(Self(file))
    }

    /// Appends a line.
    pub fn say(&mut self, line: &str) {
        let _ = writeln!(self.0, "{line}");
    }

    /// Runs a command.
    ///
    /// # Errors
    ///
    /// Fails if the command cannot be started or fails.
    pub fn run(&mut self, command: &mut Command) -> Result {
        command.stdin(Stdio::null()).stdout(self.0.try_clone()?).stderr(self.0.try_clone()?);
        let status = command.status().map_err(cannot_start(command))?;
        check(command, status)
    }

    /// Runs a command, appends its output and returns its standard output without the last newline.
    ///
    /// # Errors
    ///
    /// Fails if the command cannot be started or fails.
    pub fn output(&mut self, command: &mut Command) -> Result<String> {
        let output = command
            .stdin(Stdio::null())
            .stderr(self.0.try_clone()?)
            .output()
            .map_err(cannot_start(command))?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        self.say(&text);
        check(command, output.status)?;
        Ok(text)
    }

    /// Returns the text so far.
    #[must_use]
    pub fn text(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.0.rewind().and_then(|()| self.0.read_to_end(&mut bytes));
        read.map_or_else(
            |error: io::Error| error.to_string(),
            |_| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

/// Fails unless both texts are equal; the error has both.
///
/// # Errors
///
/// Fails if the texts differ.
pub fn same(is: &str, expected: &str) -> Result {
    if is == expected { Ok(()) } else { Err(format!("got:\n{is}\nexpected:\n{expected}").into()) }
}

/// Fails with a text unless the condition holds.
///
/// # Errors
///
/// Fails if the condition does not hold.
pub fn ensure(condition: bool, otherwise: &str) -> Result {
    if condition { Ok(()) } else { Err(otherwise.into()) }
}
