//! The threads that look at devices' hardware: a read of what is being reset hangs until that is over.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use vfio_plugin_policy::health::checks::Checks;
use vfio_plugin_policy::health::hardware::Reading;
use vfio_probe::{PciAddress, Presence, Root};

/// So many hang at once before nobody looks any more; each is a device that is being reset.
const THREADS: usize = 4;

/// HardwareReaders at a device; the second says whether it may be woken.
pub(super) type ReadHardware = dyn Fn(PciAddress, bool) -> Reading + Send + Sync;

/// Devices to be looked at, and what was found.
pub(crate) struct HardwareReaders {
    look: Box<ReadHardware>,
    work: Mutex<Work>,
    asked: Condvar,
}

/// Devices on their way through the threads.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// A round's, and whether each may be woken.
    waiting: VecDeque<(PciAddress, bool)>,
    /// Those that somebody waits for; they may be woken, and are under way already.
    urgent: VecDeque<(PciAddress, oneshot::Sender<Reading>)>,
    under_way: BTreeSet<PciAddress>,
    /// Unbound while under way: what is found is of no interest, and may be another driver's.
    gone: BTreeSet<PciAddress>,
    /// What was not asked when it was last looked at.
    asleep: BTreeSet<PciAddress>,
    pub(super) done: Vec<Done>,
    pub(super) threads: usize,
    over: bool,
}

/// What was found of a device.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) address: PciAddress,
    pub(super) look: Reading,
    pub(super) at: Instant,
    /// It was urgent.
    pub(super) urgent: bool,
}

impl HardwareReaders {
    pub(super) fn new(look: Box<ReadHardware>) -> Arc<Self> {
        Arc::new(Self { look, work: Mutex::default(), asked: Condvar::new() })
    }

    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock()
    }

    /// Begins a round of these, each with whether it may be woken. Those whose last look still hangs are left out.
    pub(super) fn ask(self: &Arc<Self>, devices: &[(PciAddress, bool)]) {
        let mut guard = self.work();
        let work = &mut *guard;
        // What still waits does so behind one that hangs.
        let stuck = work.threads <= work.under_way.len();
        // What was left over from the last round goes first, unless it is offered no more, and may be another driver's.
        work.waiting.retain(|(waiting, _)| devices.iter().any(|(address, _)| address == waiting));
        for &(address, may_wake) in devices {
            if let Some(waiting) = work.waiting.iter_mut().find(|(waiting, _)| *waiting == address) {
                waiting.1 = may_wake;
            } else if !work.under_way.contains(&address) {
                work.waiting.push_back((address, may_wake));
            }
        }
        if work.waiting.is_empty() {
            return;
        }
        if stuck {
            self.begin_thread(work);
        }
        drop(guard);
        self.asked.notify_one();
    }

    /// Asks a device at once whether it is there, if it was not asked the last time since it sleeps; whoever waits is told.
    pub(crate) fn wake(self: &Arc<Self>, address: PciAddress) -> Option<oneshot::Receiver<Reading>> {
        let mut guard = self.work();
        let work = &mut *guard;
        if work.over || !work.asleep.contains(&address) || !work.under_way.insert(address) {
            return None;
        }
        work.waiting.retain(|(waiting, _)| *waiting != address);
        let (sender, found) = oneshot::channel();
        work.urgent.push_back((address, sender));
        if work.threads < work.under_way.len() {
            self.begin_thread(work);
        }
        drop(guard);
        self.asked.notify_one();
        Some(found)
    }

    /// A device is no longer ours to look at.
    pub(super) fn forget(&self, address: PciAddress) {
        let work = &mut *self.work();
        work.waiting.retain(|(waiting, _)| *waiting != address);
        work.done.retain(|done| done.address != address);
        work.asleep.remove(&address);
        if work.under_way.contains(&address) {
            work.gone.insert(address);
        }
    }

    /// No look begins any more.
    pub(crate) fn end(&self) {
        self.work().over = true;
        self.asked.notify_all();
    }

    #[cfg(test)]
    pub(super) fn is_under_way(&self, id: vfio_probe::DeviceId) -> bool {
        id.pci().is_some_and(|address| self.work().under_way.contains(&address))
    }

    fn begin_thread(self: &Arc<Self>, work: &mut Work) {
        if work.threads >= THREADS || work.over {
            return;
        }
        let theirs = Arc::clone(self);
        let thread = std::thread::Builder::new().name("hardware".into()).stack_size(128 * 1024);
        match thread.spawn(move || theirs.work_off()) {
            Ok(_) => work.threads += 1,
            Err(error) => tracing::warn!(%error, "no thread to look at hardware with"),
        }
    }

    fn work_off(&self) {
        let mut work = self.work();
        while !work.over {
            let (address, may_wake, waits) = if let Some((address, sender)) = work.urgent.pop_front() {
                (address, true, Some(sender))
            } else if let Some((address, may_wake)) = work.waiting.pop_front() {
                work.under_way.insert(address);
                (address, may_wake, None)
            } else {
                self.asked.wait(&mut work);
                continue;
            };
            drop(work);
            let look = (self.look)(address, may_wake);
            work = self.work();
            work.under_way.remove(&address);
            if !work.gone.remove(&address) {
                if look.presence == Some(Presence::NotChecked) {
                    work.asleep.insert(address);
                } else {
                    work.asleep.remove(&address);
                }
                let urgent = waits.is_some();
                work.done.push(Done { address, look, at: Instant::now(), urgent });
            }
            // Whoever waits may have gone.
            let _ = waits.map(|waits| waits.send(look));
        }
    }
}

impl fmt::Debug for HardwareReaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HardwareReaders").field("work", &self.work).finish_non_exhaustive()
    }
}

/// One look. What cannot be read is not known; why that is, the log tells whoever asks for details.
pub(super) fn look(root: &Root, checks: Checks, address: PciAddress, may_wake: bool) -> Reading {
    let told = |error| tracing::debug!(%error, "hardware");
    let presence = || match root.presence(address).map_err(told).ok()? {
        Presence::NotChecked if may_wake => root.presence_waking(address).map_err(told).ok(),
        presence => Some(presence),
    };
    Reading {
        presence: checks.lost.then(presence).flatten(),
        fatal: checks.aer.then(|| root.fatal_errors(address).map_err(told).ok().flatten()).flatten(),
    }
}

/// One look from a command, by a deadline; none if it hangs. Nothing is woken.
pub(crate) fn look_by(
    root: &Arc<Root>,
    checks: Checks,
    address: PciAddress,
    deadline: Duration,
) -> Option<Reading> {
    if !checks.lost && !checks.aer {
        return Some(Reading::default());
    }
    let (sender, found) = channel();
    let root = Arc::clone(root);
    std::thread::spawn(move || sender.send(look(&root, checks, address, false)));
    found.recv_timeout(deadline).ok()
}
