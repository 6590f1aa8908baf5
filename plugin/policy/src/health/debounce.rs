//! Pure: a fault that comes and goes is believed once it has lasted, and is over once it has been gone for longer each time.

use std::time::{Duration, Instant};

/// One that is back within this time comes and goes.
const CALM: Duration = Duration::from_secs(10 * 60);
/// It is never longer than this until its end is believed.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// Whether there is a fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Debounced {
    settling: Duration,
    fault: bool,
    /// Since when every look has said otherwise.
    doubt: Option<Instant>,
    /// How long its end has to last.
    recovery: Duration,
    /// When the latest one ended.
    ended: Option<Instant>,
}

impl Debounced {
    /// A fault or none, as it was before; what lasts for this long is believed.
    pub fn new(fault: bool, settling: Duration) -> Self {
        Self { settling, fault, doubt: None, recovery: settling, ended: None }
    }

    /// Whether one is believed in.
    pub fn is_fault(&self) -> bool {
        self.fault
    }

    /// When the next look is due, if what is believed is in doubt.
    pub fn due(&self) -> Option<Instant> {
        Some(self.doubt? + self.lasting())
    }

    /// How long looks must say otherwise.
    fn lasting(&self) -> Duration {
        if self.fault { self.recovery } else { self.settling }
    }

    /// Whether what is believed is in doubt.
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// A look finds nothing out: a doubt does not outlive it, or two odd looks hours apart would be two in a row.
    pub fn no_look(&mut self) {
        self.doubt = None;
    }

    /// What is found is beyond doubt.
    pub fn believe(&mut self, fault: bool, now: Instant) {
        self.doubt = None;
        if fault != self.fault {
            self.turn(fault, now);
        }
    }

    /// A look finds one, or none. A single look changes nothing.
    pub fn see(&mut self, fault: bool, now: Instant) {
        if fault == self.fault {
            self.doubt = None;
            return;
        }
        let since = *self.doubt.get_or_insert(now);
        if since == now || now < since + self.lasting() {
            return;
        }
        self.turn(fault, now);
    }

    fn turn(&mut self, fault: bool, now: Instant) {
        (self.fault, self.doubt) = (fault, None);
        if fault {
            let again = self.ended.is_some_and(|ended| now < ended + CALM);
            // Never less than at first, which may be set to more.
            let longest = LONGEST.max(self.settling);
            self.recovery = if again { (self.recovery * 2).min(longest) } else { self.settling };
        } else {
            self.ended = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at these seconds, each with what it finds, and what is believed then.
    fn story(looks: &[(u64, bool, bool)]) -> Debounced {
        let begin = Instant::now();
        let mut steady = Debounced::new(false, Duration::from_secs(3));
        for (second, fault, believed) in looks {
            steady.see(*fault, begin + Duration::from_secs(*second));
            assert_eq!(steady.is_fault(), *believed, "at {second} s");
        }
        steady
    }

    #[test]
    fn one_odd_look_changes_nothing_and_what_lasts_is_believed() {
        story(&[
            (0, false, false),
            (10, true, false),
            (13, false, false),
            (20, true, false),
            (22, true, false),
        ]);
        story(&[(0, true, false), (2, true, false), (3, true, true), (13, false, true), (15, true, true)]);
        story(&[
            (0, true, false),
            (60, true, true),
            (70, false, true),
            (72, false, true),
            (73, false, false),
        ]);
    }

    #[test]
    fn what_comes_back_takes_twice_as_long_to_end_each_time_up_to_five_minutes() {
        let begin = Instant::now();
        let mut steady = Debounced::new(false, Duration::from_secs(3));
        let mut now = begin;
        let mut taken = Vec::new();
        for _ in 0..9 {
            for fault in [true, false] {
                let since = now;
                while steady.is_fault() != fault {
                    steady.see(fault, now);
                    now += Duration::from_secs(1);
                }
                if !fault {
                    taken.push((now - since).as_secs() - 1);
                }
            }
        }
        assert_eq!(taken, [3, 6, 12, 24, 48, 96, 192, 300, 300]);
        // After ten idle minutes it is as in the beginning.
        now += CALM;
        for (later, fault) in [(0, true), (3, true), (10, false), (13, false)] {
            steady.see(fault, now + Duration::from_secs(later));
        }
        assert!(!steady.is_fault());
    }

    #[test]
    fn what_comes_back_never_ends_sooner_than_at_first() {
        let begin = Instant::now();
        let minute = Duration::from_secs(60);
        let mut steady = Debounced::new(true, minute * 6);
        for (at, fault, believed) in [(0, false, true), (6, false, false), (7, true, false), (13, true, true)]
        {
            steady.see(fault, begin + minute * at);
            assert_eq!(steady.is_fault(), believed, "minute {at}");
        }
        assert_eq!(steady.lasting(), minute * 6);
    }

    #[test]
    fn what_is_beyond_doubt_is_believed_at_once_and_counts_as_any_other() {
        let begin = Instant::now();
        let mut steady = Debounced::new(false, Duration::from_secs(3));
        for recovery in [3, 6, 12] {
            steady.believe(true, begin);
            assert!(steady.is_fault());
            assert_eq!(steady.lasting(), Duration::from_secs(recovery));
            steady.believe(true, begin);
            steady.believe(false, begin);
            assert!(!steady.is_fault());
        }
    }

    #[test]
    fn a_doubt_says_when_it_will_be_settled() {
        let begin = Instant::now();
        let mut steady = Debounced::new(false, Duration::from_secs(3));
        assert_eq!(steady.due(), None);
        steady.see(true, begin);
        assert_eq!(steady.due(), Some(begin + Duration::from_secs(3)));
        steady.see(true, begin + Duration::from_secs(1));
        assert_eq!(steady.due(), Some(begin + Duration::from_secs(3)));
        steady.see(true, begin + Duration::from_secs(3));
        assert_eq!((steady.is_fault(), steady.due()), (true, None));
    }
}
