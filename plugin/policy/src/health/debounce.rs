//! Debounces a fault: it is confirmed once it has lasted, and each recurrence doubles the time that its end must last.

use std::time::{Duration, Instant};

/// A fault that is back within this time after its end is a recurrence.
const RECURRENCE: Duration = Duration::from_secs(10 * 60);
/// The longest time that the end of a fault must last, unless the settling time is longer.
const MAX_RECOVERY: Duration = Duration::from_secs(5 * 60);

/// A fault that checks confirm or refute over time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Debounced {
    /// How long a fault must last to be confirmed.
    settling: Duration,
    /// The confirmed state.
    fault: bool,
    /// Since when every check contradicts the confirmed state. None if the latest one agreed.
    contradicted_since: Option<Instant>,
    /// How long the end of the present fault must last.
    recovery: Duration,
    /// When the latest fault ended.
    ended: Option<Instant>,
}

impl Debounced {
    /// Starts with a confirmed state. `settling` is how long a change must last to be confirmed.
    pub fn new(fault: bool, settling: Duration) -> Self {
        Self { settling, fault, contradicted_since: None, recovery: settling, ended: None }
    }

    /// Returns whether there is a fault, as far as confirmed.
    pub fn is_fault(&self) -> bool {
        self.fault
    }

    /// Returns whether the latest check contradicts the confirmed state.
    pub fn is_pending(&self) -> bool {
        self.contradicted_since.is_some()
    }

    /// Returns when the next check can confirm a pending change. None if no change is pending.
    pub fn next_check(&self) -> Option<Instant> {
        Some(self.contradicted_since? + self.required())
    }

    /// Records a check that finds a fault, or none. A single check changes nothing.
    pub fn check(&mut self, fault: bool, now: Instant) {
        if fault == self.fault {
            self.contradicted_since = None;
            return;
        }
        let since = *self.contradicted_since.get_or_insert(now);
        if since == now || now < since + self.required() {
            return;
        }
        self.change(fault, now);
    }

    /// Records an inconclusive check. It cancels a pending change, so that two failures hours apart do not count as
    /// consecutive.
    pub fn check_inconclusive(&mut self) {
        self.contradicted_since = None;
    }

    /// Confirms a state at once, by evidence that needs no second check.
    pub fn confirm(&mut self, fault: bool, now: Instant) {
        self.contradicted_since = None;
        if fault != self.fault {
            self.change(fault, now);
        }
    }

    /// Returns how long checks must contradict the confirmed state to change it.
    fn required(&self) -> Duration {
        if self.fault { self.recovery } else { self.settling }
    }

    fn change(&mut self, fault: bool, now: Instant) {
        (self.fault, self.contradicted_since) = (fault, None);
        if fault {
            let recurs = self.ended.is_some_and(|ended| now < ended + RECURRENCE);
            // The settling time may be configured to be longer than the maximum.
            let max = MAX_RECOVERY.max(self.settling);
            self.recovery = if recurs { (self.recovery * 2).min(max) } else { self.settling };
        } else {
            self.ended = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays checks: the second, what the check finds, and the confirmed state after it.
    fn play(checks: &[(u64, bool, bool)]) {
        let begin = Instant::now();
        let mut debounced = Debounced::new(false, Duration::from_secs(3));
        for (second, fault, confirmed) in checks {
            debounced.check(*fault, begin + Duration::from_secs(*second));
            assert_eq!(debounced.is_fault(), *confirmed, "at {second} s");
        }
    }

    #[test]
    fn single_failure_is_ignored_and_lasting_one_confirmed() {
        play(&[
            (0, false, false),
            (10, true, false),
            (13, false, false),
            (20, true, false),
            (22, true, false),
        ]);
        play(&[(0, true, false), (2, true, false), (3, true, true), (13, false, true), (15, true, true)]);
        play(&[(0, true, false), (60, true, true), (70, false, true), (72, false, true), (73, false, false)]);
    }

    #[test]
    fn each_recurrence_doubles_recovery_up_to_five_minutes() {
        let begin = Instant::now();
        let mut debounced = Debounced::new(false, Duration::from_secs(3));
        let mut now = begin;
        let mut recoveries = Vec::new();
        for _ in 0..9 {
            for fault in [true, false] {
                let since = now;
                while debounced.is_fault() != fault {
                    debounced.check(fault, now);
                    now += Duration::from_secs(1);
                }
                if !fault {
                    recoveries.push((now - since).as_secs() - 1);
                }
            }
        }
        assert_eq!(recoveries, [3, 6, 12, 24, 48, 96, 192, 300, 300]);
        // Ten minutes without a fault reset the recovery.
        now += RECURRENCE;
        for (later, fault) in [(0, true), (3, true), (10, false), (13, false)] {
            debounced.check(fault, now + Duration::from_secs(later));
        }
        assert!(!debounced.is_fault());
    }

    #[test]
    fn recurrence_never_recovers_sooner_than_the_first_fault() {
        let begin = Instant::now();
        let minute = Duration::from_secs(60);
        let mut debounced = Debounced::new(true, minute * 6);
        let checks = [(0, false, true), (6, false, false), (7, true, false), (13, true, true)];
        for (at, fault, confirmed) in checks {
            debounced.check(fault, begin + minute * at);
            assert_eq!(debounced.is_fault(), confirmed, "minute {at}");
        }
        assert_eq!(debounced.required(), minute * 6);
    }

    #[test]
    fn confirmed_evidence_counts_at_once_and_as_a_recurrence() {
        let begin = Instant::now();
        let mut debounced = Debounced::new(false, Duration::from_secs(3));
        for recovery in [3, 6, 12] {
            debounced.confirm(true, begin);
            assert!(debounced.is_fault());
            assert_eq!(debounced.required(), Duration::from_secs(recovery));
            debounced.confirm(true, begin);
            debounced.confirm(false, begin);
            assert!(!debounced.is_fault());
        }
    }

    #[test]
    fn pending_change_names_its_next_check() {
        let begin = Instant::now();
        let mut debounced = Debounced::new(false, Duration::from_secs(3));
        assert_eq!(debounced.next_check(), None);
        debounced.check(true, begin);
        assert_eq!(debounced.next_check(), Some(begin + Duration::from_secs(3)));
        debounced.check(true, begin + Duration::from_secs(1));
        assert_eq!(debounced.next_check(), Some(begin + Duration::from_secs(3)));
        debounced.check(true, begin + Duration::from_secs(3));
        assert_eq!((debounced.is_fault(), debounced.next_check()), (true, None));
    }
}
