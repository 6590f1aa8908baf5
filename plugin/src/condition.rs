//! Pure: what is known of a device's hardware after many looks at it, some of which are odd or find nothing out.

use crate::steady::Steady;
use std::time::{Duration, Instant};
use vfio_probe::Presence;

/// Fatal errors are over when there was none for this long: the kernel's counter never falls.
const CALM: Duration = Duration::from_secs(10 * 60);

/// What one look has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Look {
    /// Whether it is there; none if that was not looked at, or could not be told.
    pub(crate) presence: Option<Presence>,
    /// How many fatal PCIe errors the kernel has counted; none as above.
    pub(crate) fatal: Option<u64>,
}

/// What a device's health is decided by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Condition {
    /// It has fallen off the bus.
    pub(crate) lost: bool,
    /// Fatal PCIe errors of late.
    pub(crate) fatal: u64,
}

/// All looks at a device since it was bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    lost: Steady,
    fatal: Counter,
}

impl History {
    /// No look yet at a device that was lost or not; what its looks say for `settling` counts.
    pub(crate) fn new(lost: bool, settling: Duration) -> Self {
        Self { lost: Steady::new(lost, settling), fatal: Counter::default() }
    }

    /// Takes in what a look has found.
    pub(crate) fn see(&mut self, look: Look, now: Instant) {
        match look.presence {
            Some(Presence::Present) => self.lost.see(false, now),
            Some(Presence::Lost) => self.lost.see(true, now),
            // Of what is not asked nothing new is known.
            Some(Presence::NotAsked) | None => {}
        }
        if let Some(count) = look.fatal {
            self.fatal.see(count, now);
        }
    }

    /// What is known.
    pub(crate) fn condition(&self) -> Condition {
        Condition { lost: self.lost.is_fault(), fatal: self.fatal.risen() }
    }

    /// When the next look is due, if the latest has raised a doubt.
    pub(crate) fn due(&self) -> Option<Instant> {
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
    fn story(was_lost: bool, looks: &[(u64, Look, (bool, u64))]) {
        let begin = Instant::now();
        let mut history = History::new(was_lost, Duration::from_secs(3));
        for (second, look, (lost, fatal)) in looks {
            history.see(*look, begin + Duration::from_secs(*second));
            let known = Condition { lost: *lost, fatal: *fatal };
            assert_eq!(history.condition(), known, "at {second} s, {look:?}");
        }
    }

    fn is(presence: Presence) -> Look {
        Look { presence: Some(presence), fatal: None }
    }

    fn counts(fatal: u64) -> Look {
        Look { presence: None, fatal: Some(fatal) }
    }

    #[test]
    fn it_is_lost_by_two_looks_and_back_by_two() {
        use Presence::{Lost as Ones, NotAsked, Present};
        let looks = [
            (0, is(Present), (false, 0)),
            (10, is(Ones), (false, 0)),
            (13, is(Ones), (true, 0)),
            // Asleep, or unreadable: nobody knows, and nothing changes.
            (20, is(NotAsked), (true, 0)),
            (30, Look::default(), (true, 0)),
            (40, is(Present), (true, 0)),
            (43, is(Present), (false, 0)),
        ];
        story(false, &looks);
        // Also if it was lost for an earlier process of ours.
        story(true, &looks[3..]);
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
                (30, Look::default(), (false, 3)),
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
