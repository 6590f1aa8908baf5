//! Decides when a failed action is tried again.

use crate::backoff::Backoff;
use std::time::{Duration, Instant};

/// When the next retry of an action is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    backoff: Backoff,
    /// None while the action works.
    due: Option<Instant>,
}

impl Retry {
    /// Returns a schedule that begins with the pause `first`. Each pause is twice as long as the one before, up to `max`.
    pub(crate) const fn new(first: Duration, max: Duration) -> Self {
        Self { backoff: Backoff::new(first, max), due: None }
    }

    /// Records a failure. The pause grows only if a retry was due: an attempt that an event caused sooner does not count as one.
    pub(crate) fn failed(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now >= due) {
            self.due = Some(now + self.backoff.pause());
        }
    }

    /// Records a success.
    pub(crate) fn succeeded(&mut self) {
        self.backoff.reset();
        self.due = None;
    }

    /// Returns whether the latest attempt failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.due.is_some()
    }

    /// Returns whether a retry is due; false if the latest attempt succeeded.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now >= due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_grows_with_retries_and_not_with_other_attempts() {
        let second = Duration::from_secs(1);
        let begin = Instant::now();
        let mut retry = Retry::new(second, second * 3);
        assert!(!retry.is_failing() && !retry.is_due(begin));
        retry.failed(begin);
        retry.failed(begin);
        assert!(retry.is_failing() && !retry.is_due(begin) && retry.is_due(begin + second));
        retry.failed(begin + second);
        assert!(!retry.is_due(begin + second * 2) && retry.is_due(begin + second * 3));
        retry.failed(begin + second * 3);
        assert!(
            !retry.is_due(begin + second * 5) && retry.is_due(begin + second * 6),
            "at most three seconds"
        );
        retry.succeeded();
        assert!(!retry.is_failing() && !retry.is_due(begin + second * 60));
        retry.failed(begin);
        assert!(retry.is_due(begin + second));
    }
}
