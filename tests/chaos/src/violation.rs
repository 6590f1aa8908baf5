//! The error for a broken promise of the plugin, distinct from errors of the run itself.

use std::fmt;

/// A broken promise.
#[derive(Debug)]
pub(crate) struct Violation {
    /// What was broken.
    pub(crate) text: String,
    /// True if the scheduler sees fewer free devices than there are.
    pub(crate) short: bool,
    /// The end of the plugin's log; empty if it was not read.
    pub(crate) log: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Violation {}

/// Returns a violation from the function.
macro_rules! violated {
    ($($text:tt)*) => {
        return Err($crate::violation::Violation { text: format!($($text)*), short: false, log: String::new() }.into())
    };
}
pub(crate) use violated;
