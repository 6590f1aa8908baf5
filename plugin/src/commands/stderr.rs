//! Prints on standard error. A stream that is closed, full or blocked neither stops the process nor changes its exit code.

use crate::commands::escape::escaped;
use crate::log;
use std::fmt;

/// Prints one line, after the lines of the log. Control characters in it are escaped, because a message can quote another program.
/// Never blocks.
pub(crate) fn print(line: fmt::Arguments<'_>) {
    let line = line.to_string();
    log::print(format_args!("{}", escaped(&line)));
}

/// Prints a text of many lines, such as a usage error, as it is. Never blocks.
pub(crate) fn print_text(text: &str) {
    log::print(format_args!("{}", text.trim_end()));
}
