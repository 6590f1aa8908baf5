//! Errors of the pools file: the line, what is wrong, and what was expected.

use granit_parser::{ErrorKind, ScanError};
use std::fmt;

/// Limit for the part of a file's text that an error contains, in characters.
const MAX_EXCERPT: usize = 64;

/// An error of the pools file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolsError {
    /// The line, from 1; 0 if the error is about the whole file.
    line: u64,
    text: String,
}

impl PoolsError {
    /// Returns an error about the whole file.
    pub(crate) fn of_file(text: impl Into<String>) -> Self {
        Self { line: 0, text: text.into() }
    }

    /// Returns an error about a line.
    pub(super) fn at(line: u64, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }

    /// Returns an error about a line whose YAML nests or repeats too much.
    pub(super) fn too_much(line: u64) -> Self {
        Self::at(line, "the file nests or repeats more than a list of pools does")
    }

    /// Returns the error of the YAML parser. Its texts are fixed, but for a character that it quotes.
    pub(super) fn of_parser(error: &ScanError) -> Self {
        let line = error.marker().line() as u64;
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => Self::too_much(line),
            ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
                Self::at(line, "the line begins with a tab; expected spaces")
            }
            kind => Self::at(line, kind.to_string()),
        }
    }
}

impl fmt::Display for PoolsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for PoolsError {}

/// Returns a text of the file for an error: in quotes, with control characters escaped, and cut.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(MAX_EXCERPT) {
        Some((end, _)) => format!("{:?}...", text.split_at(end).0),
        None => format!("{text:?}"),
    }
}
