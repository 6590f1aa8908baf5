//! What must not happen, as an error of its own beside those of the run itself.

use std::fmt;

/// A promise of the plugin that was broken.
#[derive(Debug)]
pub(crate) struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

/// Ends a step with a violation.
macro_rules! violated {
    ($($text:tt)*) => {
        return Err($crate::violation::Violation(format!($($text)*)).into())
    };
}
pub(crate) use violated;
