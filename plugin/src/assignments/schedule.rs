//! Decides when the next poll of the kubelet is due.

use crate::backoff::Backoff;
use std::time::Duration;
use vfio_plugin_policy::assignments::observation::LedgerUpdate;

/// The pause between two polls is at most this where something is expected soon, however long `--interval` is.
const SOON: Duration = Duration::from_secs(1);

/// The pauses between polls.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The shortest pause between two polls: the kubelet's rate limit is for all its clients together.
    shortest: Duration,
    /// The longest pause while anything is held or assigned.
    longest: Duration,
    /// Pauses while pods cannot be listed.
    failures: Backoff,
    /// Pauses while the kubelet has not named the pod of an assignment.
    naming: Backoff,
}

impl Schedule {
    /// Returns the schedule for `--interval` and `--assignments-interval`.
    pub(super) fn new(interval: Duration, assignments_interval: Duration) -> Self {
        let shortest = interval.min(SOON);
        let backoff = Backoff::new(shortest, assignments_interval);
        Self { shortest, longest: assignments_interval, failures: backoff, naming: backoff }
    }

    /// Returns the pause after which something on the node may cause another poll.
    pub(super) fn shortest(&self) -> Duration {
        self.shortest
    }

    /// Expects that the kubelet names a new pod soon.
    pub(super) fn expect_pod(&mut self) {
        self.naming.reset();
    }

    /// Returns the pause after which another poll is due without a cause. `listed` says whether the last poll listed pods.
    pub(super) fn pause(&mut self, listed: bool, update: LedgerUpdate) -> Duration {
        let pause = match listed {
            true if update.poll_again => self.shortest,
            true => self.longest,
            false => self.failures.pause(),
        };
        if listed {
            self.failures.reset();
        }
        if update.unnamed {
            return pause.min(self.naming.pause());
        }
        self.naming.reset();
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: LedgerUpdate =
        LedgerUpdate { answered: true, poll_again: false, unnamed: false, checkpoint_is_stale: false };

    fn schedule() -> Schedule {
        Schedule::new(Duration::from_secs(1), Duration::from_secs(10))
    }

    fn pauses(schedule: &mut Schedule, listed: bool, update: LedgerUpdate) -> Vec<u64> {
        (0..6).map(|_| schedule.pause(listed, update).as_secs()).collect()
    }

    #[test]
    fn polls_are_frequent_until_the_pod_is_named() {
        let mut schedule = schedule();
        let unnamed = LedgerUpdate { unnamed: true, ..NAMED };
        assert_eq!(pauses(&mut schedule, true, unnamed), [1, 2, 4, 8, 10, 10]);
        assert_eq!(schedule.pause(true, NAMED).as_secs(), 10);
        assert_eq!(pauses(&mut schedule, true, unnamed), [1, 2, 4, 8, 10, 10], "of the next pod");
        schedule.expect_pod();
        assert_eq!(schedule.pause(true, unnamed).as_secs(), 1, "after another Allocate");
    }

    #[test]
    fn failures_back_off_until_pods_are_listed() {
        let mut schedule = schedule();
        assert_eq!(pauses(&mut schedule, false, NAMED), [1, 2, 4, 8, 10, 10]);
        assert_eq!(schedule.pause(true, NAMED).as_secs(), 10);
        assert_eq!(schedule.pause(false, NAMED).as_secs(), 1);
    }

    #[test]
    fn missing_pod_is_checked_again_soon() {
        let missing = LedgerUpdate { poll_again: true, ..NAMED };
        assert_eq!(pauses(&mut schedule(), true, missing), [1; 6]);
    }

    #[test]
    fn long_interval_does_not_delay_what_is_expected_soon() {
        let mut schedule = Schedule::new(Duration::from_secs(3600), Duration::from_secs(10));
        assert_eq!(schedule.shortest(), SOON);
        assert_eq!(schedule.pause(true, LedgerUpdate { poll_again: true, ..NAMED }), SOON);
    }
}
