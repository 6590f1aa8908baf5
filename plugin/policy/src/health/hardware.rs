//! Confirms the state of a device's hardware from many readings, some of which are wrong or inconclusive.

use crate::device::HardwareHealth;
use crate::health::debounce::Debounced;
use std::time::{Duration, Instant};
use vfio_probe::Presence;

/// Fatal errors are over after this time without another one. The kernel's counter never falls.
const CALM: Duration = Duration::from_secs(10 * 60);

/// What one check of the hardware read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// Whether the device responds. None if that was not checked or could not be read.
    pub presence: Option<Presence>,
    /// The kernel's count of fatal PCIe errors. None if it was not checked or could not be read.
    pub fatal: Option<u64>,
}

/// All readings of a device since it was bound.
#[derive(Clone, Copy, Debug)]
pub struct HardwareHistory {
    lost: Debounced,
    fatal: FatalCounter,
    /// When a check was last allowed to wake the device.
    woken: Option<Instant>,
}

impl HardwareHistory {
    /// Starts without a reading. `lost` is whether the device was lost before, `settling` how long a change must last to be
    /// confirmed.
    pub fn new(lost: bool, settling: Duration) -> Self {
        Self { lost: Debounced::new(lost, settling), fatal: FatalCounter::default(), woken: None }
    }

    /// Records a reading.
    pub fn record(&mut self, reading: Reading, now: Instant) {
        match reading.presence {
            Some(Presence::Present) => self.lost.check(false, now),
            Some(Presence::Lost) => self.lost.check(true, now),
            // Not checked, not read, or an answer that is neither.
            Some(_) | None => self.lost.check_inconclusive(),
        }
        if let Some(count) = reading.fatal {
            self.fatal.record(count, now);
        }
    }

    /// Confirms at once that the device is lost. Allocate found it lost with a read that wakes the device, which is$
    /// conclusive.
    pub fn confirm_lost(&mut self, now: Instant) {
        self.lost.confirm(true, now);
    }

    /// Returns whether the next check may wake the device, and remembers that it may.
    ///
    /// A lost device may be woken: no VM can use it, and while it sleeps no other check can find out that it is back. This
    /// happens once in each `every`, and in every round while its return is pending.
    pub fn may_wake(&mut self, every: Duration, now: Instant) -> bool {
        let due = self.lost.is_pending() || self.woken.is_none_or(|woken| now >= woken + every);
        let may = self.lost.is_fault() && due;
        if may {
            self.woken = Some(now);
        }
        may
    }

    /// Returns the confirmed state, without the users of its memory, which no reading has.
    pub fn health(&self) -> HardwareHealth {
        HardwareHealth { lost: self.lost.is_fault(), fatal: self.fatal.new_errors(), bar_user: None }
    }

    /// Returns when the next check can confirm a pending change. None if no change is pending.
    pub fn next_check(&self) -> Option<Instant> {
        self.lost.next_check()
    }
}

/// A counter of the kernel that never falls while the device stays.
#[derive(Clone, Copy, Debug, Default)]
struct FatalCounter {
    /// The count up to which errors are over, and the latest count. None before the first reading.
    counts: Option<(u64, u64)>,
    /// When the count last rose.
    rose: Option<Instant>,
}

impl FatalCounter {
    fn record(&mut self, count: u64, now: Instant) {
        let (baseline, last) = self.counts.unwrap_or((count, count));
        if count != last {
            // A count that has fallen belongs to another device in the same slot.
            self.rose = (count > last).then_some(now);
        }
        let calm = self.rose.is_none_or(|rose| now >= rose + CALM);
        self.counts = Some((if calm { count } else { baseline }, count));
    }

    fn new_errors(&self) -> u64 {
        self.counts.map_or(0, |(baseline, last)| last.saturating_sub(baseline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays readings: the second, the reading, and the confirmed state after it (lost, fatal errors).
    fn play(was_lost: bool, readings: &[(u64, Reading, (bool, u64))]) {
        let begin = Instant::now();
        let mut history = HardwareHistory::new(was_lost, Duration::from_secs(3));
        for (second, reading, (lost, fatal)) in readings {
            history.record(*reading, begin + Duration::from_secs(*second));
            let expected = HardwareHealth { lost: *lost, fatal: *fatal, bar_user: None };
            assert_eq!(history.health(), expected, "at {second} s, {reading:?}");
        }
    }

    fn is(presence: Presence) -> Reading {
        Reading { presence: Some(presence), fatal: None }
    }

    fn counts(fatal: u64) -> Reading {
        Reading { presence: None, fatal: Some(fatal) }
    }

    #[test]
    fn two_readings_confirm_a_loss_and_two_the_return() {
        use Presence::{Lost, NotChecked, Present};
        let readings = [
            (0, is(Present), (false, 0)),
            (10, is(Lost), (false, 0)),
            (13, is(Lost), (true, 0)),
            // The device sleeps, or cannot be read: nothing changes.
            (20, is(NotChecked), (true, 0)),
            (30, Reading::default(), (true, 0)),
            (40, is(Present), (true, 0)),
            (43, is(Present), (false, 0)),
        ];
        play(false, &readings);
        // The same for a device that was lost in the previous process of the plugin.
        play(true, &readings[3..]);
    }

    #[test]
    fn inconclusive_reading_cancels_a_pending_change() {
        use Presence::{Lost, NotChecked, Present};
        for inconclusive in [is(NotChecked), Reading::default()] {
            // Two odd readings hours apart do not count as consecutive.
            play(
                false,
                &[(0, is(Lost), (false, 0)), (10, inconclusive, (false, 0)), (9000, is(Lost), (false, 0))],
            );
            play(
                true,
                &[(0, is(Present), (true, 0)), (10, inconclusive, (true, 0)), (9000, is(Present), (true, 0))],
            );
        }
        let mut history = HardwareHistory::new(false, Duration::from_secs(3));
        history.record(is(Lost), Instant::now());
        assert!(history.next_check().is_some());
        history.record(is(NotChecked), Instant::now());
        assert_eq!(history.next_check(), None);
    }

    #[test]
    fn lost_device_may_be_woken_rarely_and_while_its_return_pends() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let every = Duration::from_secs(60);
        let mut history = HardwareHistory::new(false, Duration::from_secs(3));
        assert!(!history.may_wake(every, at(0)));
        history.record(is(Presence::Lost), at(1));
        assert!(!history.may_wake(every, at(2)), "a pending loss is not enough");
        history.confirm_lost(at(2));
        assert!(history.health().lost);
        let may: Vec<bool> = [3, 13, 62, 63].map(|second| history.may_wake(every, at(second))).into();
        assert_eq!(may, [true, false, false, true]);
        history.record(is(Presence::Present), at(64));
        assert!(history.may_wake(every, at(67)));
        history.record(is(Presence::Present), at(67));
        assert!(!history.health().lost && !history.may_wake(every, at(600)));
    }

    #[test]
    fn fatal_errors_count_until_ten_minutes_without_another() {
        let calm = CALM.as_secs();
        play(
            false,
            &[
                (0, counts(7), (false, 0)),
                (10, counts(8), (false, 1)),
                (20, counts(10), (false, 3)),
                // The counter cannot be read once.
                (30, Reading::default(), (false, 3)),
                (calm + 19, counts(10), (false, 3)),
                (calm + 20, counts(10), (false, 0)),
                (calm + 30, counts(11), (false, 1)),
                // The device is removed and added again, with a new counter.
                (calm + 40, counts(0), (false, 0)),
                (calm + 50, counts(2), (false, 2)),
            ],
        );
    }
}
