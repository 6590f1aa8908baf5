//! What is known of each device's hardware, by looks at a slow pace.

pub(crate) mod readers;

use readers::{HardwareReaders, ReadHardware, look};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_plugin_policy::device::{HardwareHealth, NodeSnapshot};
use vfio_plugin_policy::health::checks::Checks;
use vfio_plugin_policy::health::hardware::HardwareHistory;
use vfio_probe::{DeviceId, Presence, Root};

/// A lost device may be woken in one of so many rounds: once a minute by default.
const WAKING: u32 = 6;

/// All of it. The monitor thread drives it; others do the looking.
pub(crate) struct HardwareMonitor {
    pace: Duration,
    settling: Duration,
    histories: BTreeMap<DeviceId, HardwareHistory>,
    looks: Arc<HardwareReaders>,
    /// When the next round begins.
    due: Instant,
}

impl HardwareMonitor {
    /// HardwareReaders at nothing yet; none if no check asks for it. What was lost for an earlier process of ours is so until it answers.
    pub(crate) fn new(
        root: Arc<Root>,
        checks: Checks,
        times: (Duration, Duration),
        lost: impl Iterator<Item = DeviceId>,
        now: Instant,
    ) -> Option<Self> {
        if !checks.lost && !checks.aer {
            return None;
        }
        let look = move |address, may_wake| look(&root, checks, address, may_wake);
        let mut new = Self::with(Box::new(look), times, now);
        let lost = lost.filter(|_| checks.lost);
        new.histories = lost.map(|id| (id, HardwareHistory::new(true, new.settling))).collect();
        Some(new)
    }

    fn with(look: Box<ReadHardware>, (pace, settling): (Duration, Duration), now: Instant) -> Self {
        let due = now + settling.min(pace);
        Self { pace, settling, histories: BTreeMap::new(), looks: HardwareReaders::new(look), due }
    }

    /// Those who look.
    pub(crate) fn looks(&self) -> Arc<HardwareReaders> {
        Arc::clone(&self.looks)
    }

    /// A device was bound: it is looked at when it has settled.
    pub(crate) fn bound(&mut self, now: Instant) {
        self.due = self.due.min(now + self.settling);
    }

    /// A device was unbound: what was known of it is over, and a look at it that has begun tells nothing.
    pub(crate) fn unbound(&mut self, id: DeviceId) {
        self.histories.remove(&id);
        if let Some(address) = id.pci() {
            self.looks.forget(address);
        }
    }

    /// What is known of a device.
    pub(crate) fn hardware(&self, id: DeviceId) -> HardwareHealth {
        self.histories.get(&id).map(HardwareHistory::hardware).unwrap_or_default()
    }

    /// Takes in what was found; whether any device is in another hardware than before.
    pub(crate) fn take_in(&mut self) -> bool {
        let found = std::mem::take(&mut self.looks.work().done);
        let mut news = false;
        for found in found {
            let id = DeviceId::Pci(found.address);
            let before = self.hardware(id);
            let history =
                self.histories.entry(id).or_insert_with(|| HardwareHistory::new(false, self.settling));
            if found.urgent && found.look.presence == Some(Presence::Lost) {
                history.lose(found.at);
            } else {
                history.see(found.look, found.at);
            }
            // One that is past would make every tick a round.
            if let Some(due) = history.due().filter(|due| *due > found.at) {
                self.due = self.due.min(due);
            }
            news |= self.hardware(id) != before;
        }
        news
    }

    /// Begins a round if it is time for one.
    pub(crate) fn ask(&mut self, snapshot: &NodeSnapshot, now: Instant) {
        if now < self.due {
            return;
        }
        self.due = now + self.pace;
        let every = self.pace * WAKING;
        let mut devices = Vec::new();
        for view in &snapshot.devices {
            let Some(address) = view.device.id.pci() else { continue };
            // A machine's guest may have put it to sleep, and would find it awake.
            let may_wake = !view.is_held()
                && self
                    .histories
                    .get_mut(&view.device.id)
                    .is_some_and(|history| history.may_wake(every, now));
            devices.push((address, may_wake));
        }
        self.looks.ask(&devices);
    }
}

impl Drop for HardwareMonitor {
    fn drop(&mut self) {
        self.looks.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use vfio_plugin_policy::health::hardware::Reading;
    use vfio_plugin_policy::testing::view;
    use vfio_probe::{Occupancy, PciAddress, Viability};

    const PACE: Duration = Duration::from_secs(10);
    const SETTLING: Duration = Duration::from_secs(3);

    /// Devices on the buses 1 to 6. Those that are being reset hang until the sender is gone; the others are lost.
    fn node(in_reset: &'static [u8]) -> (HardwareMonitor, NodeSnapshot, Instant, Sender<()>) {
        let begin = Instant::now();
        let (release, hang): (_, Receiver<()>) = channel();
        let hang = Mutex::new(hang);
        let look = move |address: PciAddress, _| {
            if in_reset.contains(&address.bus) {
                let _ = hang.lock().unwrap().recv();
            }
            Reading { presence: Some(Presence::Lost), fatal: None }
        };
        (
            HardwareMonitor::with(Box::new(look), (PACE, SETTLING), begin),
            devices(1..=6, begin),
            begin,
            release,
        )
    }

    fn devices(buses: std::ops::RangeInclusive<u8>, since: Instant) -> NodeSnapshot {
        let seen = |bus: u8| {
            let address = format!("0000:{bus:02x}:00.0");
            view(&address, u32::from(bus), Occupancy::Free, since, Viability::Viable, false)
        };
        NodeSnapshot { devices: buses.map(seen).collect(), ..NodeSnapshot::default() }
    }

    /// One device, of which each look finds the next of these; and whether each look might wake it.
    fn one(finds: &[Presence]) -> (HardwareMonitor, NodeSnapshot, Instant, Arc<Mutex<Vec<bool>>>) {
        let begin = Instant::now();
        let finds = Mutex::new(VecDeque::from(finds.to_vec()));
        let looks = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&looks);
        let look = move |_, may_wake| {
            theirs.lock().unwrap().push(may_wake);
            Reading { presence: finds.lock().unwrap().pop_front(), fatal: None }
        };
        (HardwareMonitor::with(Box::new(look), (PACE, SETTLING), begin), devices(1..=1, begin), begin, looks)
    }

    /// A tick: begins a round if it is time for one, waits for it, and takes it in.
    fn tick(hardware: &mut HardwareMonitor, snapshot: &NodeSnapshot, now: Instant) {
        let before = hardware.due;
        hardware.ask(snapshot, now);
        if hardware.due != before {
            found(hardware, &[1]);
        }
        hardware.take_in();
    }

    /// Waits until these have been looked at, as often as they are named.
    fn found(hardware: &HardwareMonitor, buses: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let work = hardware.looks.work();
            let mut done: Vec<u8> = work.done.iter().map(|done| done.address.bus).collect();
            drop(work);
            done.sort_unstable();
            if done == buses {
                return;
            }
            assert!(Instant::now() < deadline && done.len() <= buses.len(), "{done:?}, not {buses:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_hangs_keeps_nobody_else_for_more_than_a_round() {
        let (mut hardware, snapshot, begin, release) = node(&[2, 4]);
        hardware.ask(&snapshot, begin);
        assert_eq!(hardware.looks.work().threads, 0, "not while devices settle");
        hardware.ask(&snapshot, begin + SETTLING);
        found(&hardware, &[1]);
        // Another one goes on, and hangs in its turn; a third one has all the others.
        hardware.ask(&snapshot, begin + SETTLING + PACE);
        found(&hardware, &[1, 3]);
        hardware.ask(&snapshot, begin + SETTLING + PACE * 2);
        found(&hardware, &[1, 1, 3, 3, 5, 6]);
        hardware.ask(&snapshot, begin + SETTLING + PACE * 3);
        found(&hardware, &[1, 1, 1, 3, 3, 3, 5, 5, 6, 6]);
        assert_eq!(hardware.looks.work().threads, 3);
        drop(release);
        found(&hardware, &[1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 6]);
    }

    #[test]
    fn a_doubt_is_looked_into_sooner_and_a_device_that_is_bound_anew_begins_anew() {
        let (mut hardware, snapshot, begin, _release) = node(&[]);
        let all = [1, 2, 3, 4, 5, 6];
        let id = snapshot.devices[0].device.id;
        let begin = begin + SETTLING;
        hardware.ask(&snapshot, begin);
        found(&hardware, &all);
        assert!(!hardware.take_in(), "once is no news");
        assert!(!hardware.hardware(id).lost);
        assert!(hardware.due < begin + PACE, "and is asked again");
        // As if the first look had been long ago.
        for history in hardware.histories.values_mut() {
            *history = HardwareHistory::new(false, Duration::ZERO);
            history.see(Reading { presence: Some(Presence::Lost), fatal: None }, begin - SETTLING);
        }
        hardware.ask(&snapshot, begin + PACE);
        found(&hardware, &all);
        assert!(hardware.take_in());
        assert!(hardware.hardware(id).lost);
        hardware.unbound(id);
        assert!(!hardware.hardware(id).lost);
        hardware.bound(begin + PACE);
        assert_eq!(hardware.due, begin + PACE + SETTLING);
    }

    #[test]
    fn what_sleeps_after_a_doubt_is_looked_at_once_a_round() {
        let mut finds = vec![Presence::NotChecked; 40];
        finds[0] = Presence::Lost;
        let (mut hardware, snapshot, begin, looks) = one(&finds);
        for second in 0..300 {
            tick(&mut hardware, &snapshot, begin + Duration::from_secs(second));
        }
        // The first, the one that its doubt brings forward, and one each ten seconds.
        let count = looks.lock().unwrap().len();
        assert!((30..=32).contains(&count), "{count}");
        assert!(!looks.lock().unwrap().contains(&true), "a doubt wakes nobody");
    }

    #[test]
    fn a_lost_device_is_woken_once_a_minute_unless_somebody_holds_it() {
        let (mut hardware, mut snapshot, begin, looks) = one(&[Presence::NotChecked; 99]);
        let id = snapshot.devices[0].device.id;
        hardware.histories.insert(id, HardwareHistory::new(true, SETTLING));
        for second in 0..180 {
            tick(&mut hardware, &snapshot, begin + Duration::from_secs(second));
        }
        let woken = looks.lock().unwrap().iter().filter(|may_wake| **may_wake).count();
        assert_eq!((woken, hardware.hardware(id).lost), (3, true));
        looks.lock().unwrap().clear();
        snapshot.devices[0].group.as_mut().unwrap().occupancy = Occupancy::Held;
        for second in 180..400 {
            tick(&mut hardware, &snapshot, begin + Duration::from_secs(second));
        }
        assert!(!looks.lock().unwrap().contains(&true));
    }

    #[test]
    fn what_is_unbound_is_looked_at_no_more_and_a_look_that_hung_tells_nothing() {
        let (mut hardware, mut snapshot, begin, release) = node(&[1]);
        let id = snapshot.devices[0].device.id;
        hardware.ask(&snapshot, begin + SETTLING);
        while hardware.looks.work().threads == 0 || !hardware.looks.is_under_way(id) {
            std::thread::yield_now();
        }
        // The first hangs, the others wait. It and the second are unbound, the third is offered no more.
        let second = snapshot.devices[1].device.id;
        hardware.unbound(id);
        hardware.unbound(second);
        snapshot.devices.drain(..3);
        hardware.ask(&snapshot, begin + SETTLING + PACE);
        found(&hardware, &[4, 5, 6]);
        drop(release);
        while hardware.looks.is_under_way(id) {
            std::thread::yield_now();
        }
        found(&hardware, &[4, 5, 6]);
        hardware.take_in();
        assert_eq!(hardware.histories.len(), 3);
    }

    #[tokio::test]
    async fn who_asks_what_sleeps_is_told_and_one_answer_is_enough() {
        let (mut hardware, snapshot, begin, looks) = one(&[Presence::NotChecked, Presence::Lost]);
        let id = snapshot.devices[0].device.id;
        let address = id.pci().unwrap();
        assert!(hardware.looks.wake(address).is_none(), "never looked at");
        tick(&mut hardware, &snapshot, begin + SETTLING);
        let found = hardware.looks.wake(address).unwrap().await.unwrap();
        assert_eq!(found.presence, Some(Presence::Lost));
        assert!(hardware.take_in() && hardware.hardware(id).lost);
        assert_eq!(*looks.lock().unwrap(), [false, true]);
        assert!(hardware.looks.wake(address).is_none(), "it has been asked");
    }

    #[tokio::test]
    async fn after_the_end_nothing_begins_and_nobody_waits() {
        let (mut hardware, snapshot, begin, looks) = one(&[Presence::NotChecked, Presence::Lost]);
        let address = snapshot.devices[0].device.id.pci().unwrap();
        tick(&mut hardware, &snapshot, begin + SETTLING);
        hardware.looks.end();
        assert!(hardware.looks.wake(address).is_none());
        hardware.ask(&snapshot, begin + SETTLING + PACE);
        assert_eq!(looks.lock().unwrap().len(), 1);
    }
}
