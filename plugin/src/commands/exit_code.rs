//! The exit codes that commands share. docs/command-line.md lists which command uses which.

/// A command's negative result: no holder was found, `serve` is not ready, `doctor` has warnings.
pub(crate) const NEGATIVE: u8 = 1;
/// A command failed: it could not read what it needs, or could not print its result.
pub(crate) const FAILED: u8 = 2;
/// `who` found no holder, and the search could not see everything: it is unknown whether a process holds the group.
pub(crate) const UNKNOWN: u8 = 3;
/// Wrong usage: EX_USAGE of sysexits.h. A supervisor can distinguish it from a crash.
pub(crate) const USAGE: u8 = 64;
