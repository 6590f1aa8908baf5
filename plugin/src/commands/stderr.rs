//! Prints on standard error. A stream that is closed, full or blocked neither stops the process nor changes its exit code.

use crate::log;
use std::fmt;

/// Prints a line, after the lines of the log. Never blocks.
pub(crate) fn print(line: fmt::Arguments<'_>) {
    log::print(line);
}
