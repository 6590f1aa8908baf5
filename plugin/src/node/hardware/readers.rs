//! Reads devices' hardware on threads of its own, because a read of a device that is being reset hangs until the reset ends.

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

/// Limit for the number of threads. If as many reads hang, each of a device that is being reset, no device is read any more.
const MAX_THREADS: usize = 4;

/// Reads one device; the second argument says whether the read may wake it.
pub(super) type ReadHardware = dyn Fn(PciAddress, bool) -> Reading + Send + Sync;

/// A queue of devices to read, the threads that read them, and their readings.
pub(crate) struct HardwareReaders {
    read: Box<ReadHardware>,
    work: Mutex<Work>,
    /// Signals that a device was queued, or the end.
    queued: Condvar,
}

/// Devices on their way through the threads.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The devices of a round, and whether the read may wake each.
    waiting: VecDeque<(PciAddress, bool)>,
    /// The devices that an Allocate waits for. The read may wake them, and they are in `under_way` already.
    urgent: VecDeque<(PciAddress, oneshot::Sender<Reading>)>,
    under_way: BTreeSet<PciAddress>,
    /// Devices that were unbound while they were read. Their reading is dropped, because it may be about another driver's device.
    gone: BTreeSet<PciAddress>,
    /// Devices that slept at the latest read, so that the read did not check them.
    asleep: BTreeSet<PciAddress>,
    pub(super) done: Vec<Done>,
    pub(super) threads: usize,
    ended: bool,
}

/// The reading of one device.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) address: PciAddress,
    pub(super) reading: Reading,
    pub(super) at: Instant,
    /// Whether an Allocate waited for it.
    pub(super) urgent: bool,
}

impl HardwareReaders {
    /// Returns readers without a thread. A thread starts when it is first needed.
    pub(super) fn new(read: Box<ReadHardware>) -> Arc<Self> {
        Arc::new(Self { read, work: Mutex::default(), queued: Condvar::new() })
    }

    /// Locks the queue and the readings.
    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock()
    }

    /// Begins a round of reads. Each device comes with whether the read may wake it. A device is left out while its
    /// former read hangs.
    pub(super) fn read_all(self: &Arc<Self>, devices: &[(PciAddress, bool)]) {
        let mut guard = self.work();
        let work = &mut *guard;
        // If all threads are busy, the devices that still wait do so behind one that hangs.
        let is_stuck = work.threads <= work.under_way.len();
        // The rest of the former round goes first, without the devices that are not offered any more.
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
        if is_stuck {
            self.begin_thread(work);
        }
        drop(guard);
        self.queued.notify_one();
    }

    /// Reads a device at once, and wakes it for that. Returns none unless the device slept at its latest read. The reading arrives
    /// at the receiver, and in the next [`Work::done`].
    pub(crate) fn wake(self: &Arc<Self>, address: PciAddress) -> Option<oneshot::Receiver<Reading>> {
        let mut guard = self.work();
        let work = &mut *guard;
        if work.ended || !work.asleep.contains(&address) || !work.under_way.insert(address) {
            return None;
        }
        work.waiting.retain(|(waiting, _)| *waiting != address);
        let (sender, receiver) = oneshot::channel();
        work.urgent.push_back((address, sender));
        if work.threads < work.under_way.len() {
            self.begin_thread(work);
        }
        drop(guard);
        self.queued.notify_one();
        Some(receiver)
    }

    /// Forgets a device that was unbound.
    pub(super) fn forget(&self, address: PciAddress) {
        let work = &mut *self.work();
        work.waiting.retain(|(waiting, _)| *waiting != address);
        work.done.retain(|done| done.address != address);
        work.asleep.remove(&address);
        if work.under_way.contains(&address) {
            work.gone.insert(address);
        }
    }

    /// Ends the threads. No read begins after that; a read that hangs is not waited for.
    pub(crate) fn end(&self) {
        self.work().ended = true;
        self.queued.notify_all();
    }

    #[cfg(test)]
    pub(super) fn is_under_way(&self, id: vfio_probe::DeviceId) -> bool {
        id.pci().is_some_and(|address| self.work().under_way.contains(&address))
    }

    fn begin_thread(self: &Arc<Self>, work: &mut Work) {
        if work.threads >= MAX_THREADS || work.ended {
            return;
        }
        let of_thread = Arc::clone(self);
        let thread = std::thread::Builder::new().name("hardware".into()).stack_size(128 * 1024);
        match thread.spawn(move || of_thread.work_off()) {
            Ok(_) => work.threads += 1,
            Err(error) => tracing::warn!(%error, "thread for hardware checks could not be started"),
        }
    }

    /// Reads queued devices until the end.
    fn work_off(&self) {
        let mut work = self.work();
        while !work.ended {
            let (address, may_wake, receiver) = if let Some((address, sender)) = work.urgent.pop_front() {
                (address, true, Some(sender))
            } else if let Some((address, may_wake)) = work.waiting.pop_front() {
                work.under_way.insert(address);
                (address, may_wake, None)
            } else {
                self.queued.wait(&mut work);
                continue;
            };
            drop(work);
            let reading = (self.read)(address, may_wake);
            work = self.work();
            work.under_way.remove(&address);
            if !work.gone.remove(&address) {
                if reading.presence == Some(Presence::NotChecked) {
                    work.asleep.insert(address);
                } else {
                    work.asleep.remove(&address);
                }
                let urgent = receiver.is_some();
                work.done.push(Done { address, reading, at: Instant::now(), urgent });
            }
            if let Some(receiver) = receiver {
                // The Allocate that waited may have ended.
                let _ = receiver.send(reading);
            }
        }
    }
}

impl fmt::Debug for HardwareReaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HardwareReaders").field("work", &self.work).finish_non_exhaustive()
    }
}

/// Reads what the checks need of one device. A part that cannot be read is none, and the debug log has the reason.
pub(super) fn read_device(root: &Root, checks: Checks, address: PciAddress, may_wake: bool) -> Reading {
    let log = |error| tracing::debug!(%error, "hardware could not be read");
    let presence = || match root.presence(address).map_err(log).ok()? {
        Presence::NotChecked if may_wake => root.presence_waking(address).map_err(log).ok(),
        presence => Some(presence),
    };
    Reading {
        presence: checks.lost.then(presence).flatten(),
        fatal: checks.aer.then(|| root.fatal_errors(address).map_err(log).ok().flatten()).flatten(),
    }
}

/// Reads what the checks need of one device, for a command, and wakes nothing. Returns none if there is no reading after `timeout`:
/// the read hangs, and its thread is left behind.
pub(crate) fn read_with_timeout(
    root: &Arc<Root>,
    checks: Checks,
    address: PciAddress,
    timeout: Duration,
) -> Option<Reading> {
    if !checks.lost && !checks.aer {
        return Some(Reading::default());
    }
    let (sender, receiver) = channel();
    let root = Arc::clone(root);
    std::thread::spawn(move || sender.send(read_device(&root, checks, address, false)));
    receiver.recv_timeout(timeout).ok()
}
