//! What must not happen, as an error of its own beside those of the run itself.

use std::fmt;

/// A promise of the plugin that was broken.
#[derive(Debug)]
pub(crate) struct Violation {
    /// What was broken.
    pub(crate) text: String,
    /// The scheduler sees less room than there is, or none where there is some.
    pub(crate) short: bool,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Violation {}

/// Ends a step with a violation.
macro_rules! violated {
    ($($text:tt)*) => {
        return Err($crate::violation::Violation { text: format!($($text)*), short: false }.into())
    };
}
pub(crate) use violated;
