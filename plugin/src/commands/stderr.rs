//! Prints on standard error. A stream that is closed or full neither ends the process nor changes its exit code.

use std::fmt;
use std::io::Write;

/// Prints a line. Ignores errors, on which `eprintln!` panics.
pub(crate) fn print(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
