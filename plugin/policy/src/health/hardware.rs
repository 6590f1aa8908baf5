//! Pure: what is known of a device's hardware after many looks at it, some of which are odd or find nothing out.

use crate::device::HardwareHealth;
use crate::health::debounce::Debounced;
use std::time::{Duration, Instant};
use vfio_probe::Presence;

/// Fatal errors are over when there was none for this long: the kernel's counter never falls.
const CALM: Duration = Duration::from_secs(10 * 60);

/// What one look has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// Whether it is there; none if that was not looked at, or could not be told.
    pub presence: Option<Presence>,
    /// How many fatal PCIe errors the kernel has counted; none as above.
    pub fatal: Option<u64>,
}

/// All looks at a device since it was bound.
#[derive(Clone, Copy, Debug)]
pub struct HardwareHistory {
    lost: Debounced,
    fatal: Counter,
    /// When a look might wake it.
    woken: Option<Instant>,
}

impl HardwareHistory {
    /// No look yet at a device that was lost or not; what its looks say for `settling` counts.
    pub fn new(lost: bool, settling: Duration) -> Self {
        Self { lost: Debounced::new(lost, settling), fatal: Counter::default(), woken: None }
    }

    /// Takes in what a look has found.
    pub fn see(&mut self, look: Reading, now: Instant) {
        match look.presence {
            Some(Presence::Present) => self.lost.see(false, now),
            Some(Presence::Lost) => self.lost.see(true, now),
            // Of what is not asked nothing new is known.
            Some(Presence::NotChecked) | None => self.lost.no_look(),
        }
        if let Some(count) = look.fatal {
            self.fatal.see(count, now);
        }
    }

    /// It was found lost by who asked it without regard to its sleep: no machine can use it.
    pub fn lose(&mut self, now: Instant) {
        self.lost.believe(true, now);
    }

    /// Whether the next look may wake the device, in a round at this time: one that is lost is of no use to anybody, and where
    /// it sleeps nothing else tells that it is back. Rarely, but as often as it takes to believe that it is.
    pub fn may_wake(&mut self, every: Duration, now: Instant) -> bool {
        let due = self.lost.is_in_doubt() || self.woken.is_none_or(|woken| now >= woken + every);
        let may = self.lost.is_fault() && due;
        if may {
            self.woken = Some(now);
        }
        may
    }

    /// What is known.
    pub fn hardware(&self) -> HardwareHealth {
        HardwareHealth { lost: self.lost.is_fault(), fatal: self.fatal.risen() }
    }

    /// When the next look is due, if the latest has raised a doubt.
    pub fn due(&self) -> Option<Instant> {
        self.lost.due()
    }
}

/// A counter that never falls while the device stays.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// What it was when all was well, and what it is; none before the first look.
    values: Option<(u64, u64)>,
    rose: Option<Instant>,
}

impl Counter {
    fn see(&mut self, count: u64, now: Instant) {
        let (well, last) = self.values.unwrap_or((count, count));
        if count != last {
            // One that has fallen is another device's, in the same place.
            self.rose = (count > last).then_some(now);
        }
        let calm = self.rose.is_none_or(|rose| now >= rose + CALM);
        self.values = Some((if calm { count } else { well }, count));
    }

    fn risen(&self) -> u64 {
        self.values.map_or(0, |(well, now)| now.saturating_sub(well))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at these seconds, and what is known then.
    fn story(was_lost: bool, looks: &[(u64, Reading, (bool, u64))]) {
        let begin = Instant::now();
        let mut history = HardwareHistory::new(was_lost, Duration::from_secs(3));
        for (second, look, (lost, fatal)) in looks {
            history.see(*look, begin + Duration::from_secs(*second));
            let known = HardwareHealth { lost: *lost, fatal: *fatal };
            assert_eq!(history.hardware(), known, "at {second} s, {look:?}");
        }
    }

    fn is(presence: Presence) -> Reading {
        Reading { presence: Some(presence), fatal: None }
    }

    fn counts(fatal: u64) -> Reading {
        Reading { presence: None, fatal: Some(fatal) }
    }

    #[test]
    fn it_is_lost_by_two_looks_and_back_by_two() {
        use Presence::{Lost as Ones, NotChecked, Present};
        let looks = [
            (0, is(Present), (false, 0)),
            (10, is(Ones), (false, 0)),
            (13, is(Ones), (true, 0)),
            // Asleep, or unreadable: nobody knows, and nothing changes.
            (20, is(NotChecked), (true, 0)),
            (30, Reading::default(), (true, 0)),
            (40, is(Present), (true, 0)),
            (43, is(Present), (false, 0)),
        ];
        story(false, &looks);
        // Also if it was lost for an earlier process of ours.
        story(true, &looks[3..]);
    }

    #[test]
    fn a_look_that_finds_nothing_out_ends_a_doubt() {
        use Presence::{Lost as Ones, NotChecked, Present};
        for nothing in [is(NotChecked), Reading::default()] {
            // Two odd looks hours apart are not two in a row.
            story(
                false,
                &[(0, is(Ones), (false, 0)), (10, nothing, (false, 0)), (9000, is(Ones), (false, 0))],
            );
            story(
                true,
                &[(0, is(Present), (true, 0)), (10, nothing, (true, 0)), (9000, is(Present), (true, 0))],
            );
        }
        let mut history = HardwareHistory::new(false, Duration::from_secs(3));
        history.see(is(Ones), Instant::now());
        assert!(history.due().is_some());
        history.see(is(NotChecked), Instant::now());
        assert_eq!(history.due(), None);
    }

    #[test]
    fn only_what_is_lost_may_be_woken_now_and_then_and_as_often_as_its_return_takes() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let every = Duration::from_secs(60);
        let mut history = HardwareHistory::new(false, Duration::from_secs(3));
        assert!(!history.may_wake(every, at(0)));
        history.see(is(Presence::Lost), at(1));
        assert!(!history.may_wake(every, at(2)), "a doubt is not enough");
        history.lose(at(2));
        assert!(history.hardware().lost);
        let asked: Vec<bool> = [3, 13, 62, 63].map(|second| history.may_wake(every, at(second))).into();
        assert_eq!(asked, [true, false, false, true]);
        history.see(is(Presence::Present), at(64));
        assert!(history.may_wake(every, at(67)));
        history.see(is(Presence::Present), at(67));
        assert!(!history.hardware().lost && !history.may_wake(every, at(600)));
    }

    #[test]
    fn fatal_errors_count_from_the_first_look_and_are_over_after_ten_quiet_minutes() {
        let calm = CALM.as_secs();
        story(
            false,
            &[
                (0, counts(7), (false, 0)),
                (10, counts(8), (false, 1)),
                (20, counts(10), (false, 3)),
                // Not readable for once.
                (30, Reading::default(), (false, 3)),
                (calm + 19, counts(10), (false, 3)),
                (calm + 20, counts(10), (false, 0)),
                (calm + 30, counts(11), (false, 1)),
                // Removed and added again, its counter begins anew.
                (calm + 40, counts(0), (false, 0)),
                (calm + 50, counts(2), (false, 2)),
            ],
        );
    }
}
