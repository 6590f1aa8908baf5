//! Progress for the person at the terminal: each line has the time since the start of the run.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Prints a line to standard error, after the time since the first call.
pub fn say(text: impl std::fmt::Display) {
    static START: OnceLock<Instant> = OnceLock::new();
    eprintln!("{:>5} {text}", clock(START.get_or_init(Instant::now).elapsed()));
}

/// Returns a duration as minutes and seconds.
#[must_use]
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_has_minutes_and_seconds() {
        assert_eq!(clock(Duration::from_millis(9_900)), "0:09");
        assert_eq!(clock(Duration::from_secs(754)), "12:34");
    }
}
