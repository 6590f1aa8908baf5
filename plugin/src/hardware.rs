//! Looks at devices' hardware at a slow pace, on threads of its own: a read of what is being reset hangs until that is over.

use crate::condition::{Condition, History, Look};
use crate::settings::Checks;
use crate::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vfio_probe::{DeviceId, PciAddress, Root};

/// So many hang at once before nobody looks any more; each is a device that is being reset.
const THREADS: usize = 4;

/// What is known of each device's hardware. The monitoring thread drives it; others do the looking.
pub(crate) struct Hardware {
    look: Arc<dyn Fn(PciAddress) -> Look + Send + Sync>,
    pace: Duration,
    settling: Duration,
    histories: BTreeMap<DeviceId, History>,
    shared: Arc<Shared>,
    threads: usize,
    /// When the next round begins.
    due: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    work: Mutex<Work>,
    asked: Condvar,
}

/// A round's devices on their way through the threads.
#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<PciAddress>,
    under_way: BTreeSet<PciAddress>,
    done: Vec<(PciAddress, Look, Instant)>,
    over: bool,
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hardware {
    /// Looks at nothing yet; none if no check asks for it. What was lost for an earlier process of ours is so until it answers.
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
        let mut new = Self::with(Arc::new(move |address| look(&root, checks, address)), times, now);
        let lost = lost.filter(|_| checks.lost);
        new.histories = lost.map(|id| (id, History::new(true, new.settling))).collect();
        Some(new)
    }

    fn with(
        look: Arc<dyn Fn(PciAddress) -> Look + Send + Sync>,
        (pace, settling): (Duration, Duration),
        now: Instant,
    ) -> Self {
        let (histories, shared) = Default::default();
        Self { look, pace, settling, histories, shared, threads: 0, due: now + settling }
    }

    /// A device was bound: it is looked at when it has settled.
    pub(crate) fn bound(&mut self, now: Instant) {
        self.due = self.due.min(now + self.settling);
    }

    /// A device was unbound: what was known of it is over.
    pub(crate) fn unbound(&mut self, id: DeviceId) {
        self.histories.remove(&id);
    }

    /// What is known of a device.
    pub(crate) fn condition(&self, id: DeviceId) -> Condition {
        self.histories.get(&id).map(History::condition).unwrap_or_default()
    }

    /// Takes in what was found; whether any device is in another condition than before.
    pub(crate) fn take_in(&mut self) -> bool {
        let done = std::mem::take(&mut self.shared.work().done);
        let mut news = false;
        for (address, look, at) in done {
            let id = DeviceId::Pci(address);
            let before = self.condition(id);
            let history = self.histories.entry(id).or_insert_with(|| History::new(false, self.settling));
            history.see(look, at);
            self.due = history.due().map_or(self.due, |due| self.due.min(due));
            news |= self.condition(id) != before;
        }
        news
    }

    /// Begins a round if it is time for one. Devices whose last look still hangs are left out.
    pub(crate) fn ask(&mut self, snapshot: &Snapshot, now: Instant) {
        if now < self.due {
            return;
        }
        self.due = now + self.pace;
        let mut guard = self.shared.work();
        let work = &mut *guard;
        // What still waits does so behind one that hangs.
        let stuck = self.threads == work.under_way.len();
        for address in snapshot.devices.iter().filter_map(|view| view.device.id.pci()) {
            if !work.under_way.contains(&address) && !work.waiting.contains(&address) {
                work.waiting.push_back(address);
            }
        }
        if work.waiting.is_empty() {
            return;
        }
        drop(guard);
        if stuck && self.threads < THREADS {
            let (look, shared) = (Arc::clone(&self.look), Arc::clone(&self.shared));
            let thread = std::thread::Builder::new().name("hardware".into()).stack_size(128 * 1024);
            match thread.spawn(move || work_off(&*look, &shared)) {
                Ok(_) => self.threads += 1,
                Err(error) => tracing::warn!(%error, "no thread to look at hardware with"),
            }
        }
        self.shared.asked.notify_one();
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        self.shared.work().over = true;
        self.shared.asked.notify_all();
    }
}

fn work_off(look: &dyn Fn(PciAddress) -> Look, shared: &Shared) {
    let mut work = shared.work();
    while !work.over {
        let Some(address) = work.waiting.pop_front() else {
            work = shared.asked.wait(work).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        work.under_way.insert(address);
        drop(work);
        let look = look(address);
        work = shared.work();
        work.under_way.remove(&address);
        work.done.push((address, look, Instant::now()));
    }
}

/// One look. What cannot be read is not known; why that is, the log tells whoever asks for details.
fn look(root: &Root, checks: Checks, address: PciAddress) -> Look {
    let told = |error| tracing::debug!(%error, "hardware");
    Look {
        presence: checks.lost.then(|| root.presence(address).map_err(told).ok()).flatten(),
        fatal: checks.aer.then(|| root.fatal_errors(address).map_err(told).ok().flatten()).flatten(),
    }
}

/// One look from a command, by a deadline; none if it hangs.
pub(crate) fn look_by(
    root: &Arc<Root>,
    checks: Checks,
    address: PciAddress,
    deadline: Duration,
) -> Option<Look> {
    if !checks.lost && !checks.aer {
        return Some(Look::default());
    }
    let (sender, found) = channel();
    let root = Arc::clone(root);
    std::thread::spawn(move || sender.send(look(&root, checks, address)));
    found.recv_timeout(deadline).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::view;
    use std::sync::mpsc::{Receiver, Sender};
    use vfio_probe::{Occupancy, Presence, Viability};

    const PACE: Duration = Duration::from_secs(10);
    const SETTLING: Duration = Duration::from_secs(3);

    /// Devices on the buses 1 to 6. Those that are being reset hang until the sender is gone; the others are lost.
    fn node(in_reset: &'static [u8]) -> (Hardware, Snapshot, Instant, Sender<()>) {
        let begin = Instant::now();
        let (release, hang): (_, Receiver<()>) = channel();
        let hang = Mutex::new(hang);
        let look = move |address: PciAddress| {
            if in_reset.contains(&address.bus) {
                let _ = hang.lock().unwrap().recv();
            }
            Look { presence: Some(Presence::Lost), fatal: None }
        };
        let seen = |bus: u8| {
            let address = format!("0000:{bus:02x}:00.0");
            view(&address, u32::from(bus), Occupancy::Free, begin, Viability::Viable, false)
        };
        let snapshot = Snapshot { devices: (1..=6).map(seen).collect(), ..Snapshot::default() };
        (Hardware::with(Arc::new(look), (PACE, SETTLING), begin), snapshot, begin, release)
    }

    /// Waits until these have been looked at, as often as they are named.
    fn found(hardware: &Hardware, buses: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let work = hardware.shared.work();
            let mut done: Vec<u8> = work.done.iter().map(|(address, ..)| address.bus).collect();
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
        assert_eq!(hardware.threads, 0, "not while devices settle");
        hardware.ask(&snapshot, begin + SETTLING);
        found(&hardware, &[1]);
        // Another one goes on, and hangs in its turn; a third one has all the others.
        hardware.ask(&snapshot, begin + SETTLING + PACE);
        found(&hardware, &[1, 3]);
        hardware.ask(&snapshot, begin + SETTLING + PACE * 2);
        found(&hardware, &[1, 1, 3, 3, 5, 6]);
        hardware.ask(&snapshot, begin + SETTLING + PACE * 3);
        found(&hardware, &[1, 1, 1, 3, 3, 3, 5, 5, 6, 6]);
        assert_eq!(hardware.threads, 3);
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
        assert!(!hardware.condition(id).lost);
        assert!(hardware.due < begin + PACE, "and is asked again");
        // As if the first look had been long ago.
        for history in hardware.histories.values_mut() {
            *history = History::new(false, Duration::ZERO);
            history.see(Look { presence: Some(Presence::Lost), fatal: None }, begin - SETTLING);
        }
        hardware.ask(&snapshot, begin + PACE);
        found(&hardware, &all);
        assert!(hardware.take_in());
        assert!(hardware.condition(id).lost);
        hardware.unbound(id);
        assert!(!hardware.condition(id).lost);
        hardware.bound(begin + PACE);
        assert_eq!(hardware.due, begin + PACE + SETTLING);
    }
}
