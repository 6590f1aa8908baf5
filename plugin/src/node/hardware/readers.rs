//! Reads devices' hardware on threads of its own, because a read of a device that is being reset hangs until the reset ends.

use crate::problems::{ProblemCode, Problems};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use vfio_plugin_policy::health::checks::Checks;
use vfio_plugin_policy::health::hardware::Reading;
use vfio_probe::bounded_pool::{BoundedPool, Call, Limits};
use vfio_probe::monitor::presence_reader_limit;
use vfio_probe::{PciAddress, Presence, PresenceReader, Root};

/// If as many reads hang as there may be threads, each of a device that is being reset, no device is read any more.
///
/// Rounds are seconds apart, so a read that still runs when a round begins hangs.
const LIMITS: Limits = Limits { threads: 4, hang: Duration::ZERO, name: "hardware", stack_size: 128 * 1024 };

/// Reads one device; the second argument says whether the read may wake it.
pub(super) type ReadHardware = dyn Fn(PciAddress, bool) -> Reading + Send + Sync;

/// The threads that read devices, and their readings.
pub(crate) struct HardwareReaders {
    pub(super) pool: BoundedPool<Read>,
    shared: Arc<Shared>,
}

/// What the reads share.
struct Shared {
    read: Box<ReadHardware>,
    /// Locked before the pool, never while the pool is locked.
    work: Mutex<Work>,
}

/// The state of the devices' reads.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Devices with a read that is queued or under way, until its reading is in `done`.
    outstanding: BTreeSet<PciAddress>,
    /// Devices that were unbound while they were read. Their reading is dropped, because it may be about another driver's device.
    gone: BTreeSet<PciAddress>,
    /// Devices that slept at the latest read, so that the read did not check them.
    asleep: BTreeSet<PciAddress>,
    pub(super) done: Vec<Done>,
    /// Has why no thread could be started.
    pub(super) problems: Problems,
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

/// A read of one device on its way through the pool.
pub(super) struct Read {
    shared: Arc<Shared>,
    address: PciAddress,
    may_wake: bool,
    /// The Allocate that waits for an urgent read; none for a read of a round.
    receiver: Option<oneshot::Sender<Reading>>,
}

impl Call for Read {
    type Key = PciAddress;
    type Output = Reading;

    fn key(&self) -> PciAddress {
        self.address
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn run(&mut self) -> Reading {
        (self.shared.read)(self.address, self.may_wake)
    }

    fn finish(self, reading: Option<Reading>, _: bool) {
        // A read without a deadline is always made.
        let Some(reading) = reading else { return };
        self.shared.work.lock().record(self.address, reading, self.receiver.is_some());
        if let Some(receiver) = self.receiver {
            // The Allocate that waited may have ended.
            let _ = receiver.send(reading);
        }
    }
}

impl Work {
    /// Takes in the reading of a device, unless the device was unbound during the read.
    fn record(&mut self, address: PciAddress, reading: Reading, urgent: bool) {
        self.outstanding.remove(&address);
        if self.gone.remove(&address) {
            return;
        }
        if reading.presence == Some(Presence::NotChecked) {
            self.asleep.insert(address);
        } else {
            self.asleep.remove(&address);
        }
        self.done.push(Done { address, reading, at: Instant::now(), urgent });
    }

    /// Logs why no thread could be started, once until one could.
    fn record_thread(&mut self, thread: io::Result<()>) {
        let (code, about) = (ProblemCode::HardwareUnchecked, "hardware checks");
        let Err(error) = thread else {
            self.problems.end(code, about);
            return;
        };
        if self.problems.begin(code, about, format_args!("no thread can be started for them: {error}")) {
            tracing::warn!(%error, "thread for hardware checks could not be started; it is tried again in each round");
        }
    }
}

impl HardwareReaders {
    /// Returns readers without a thread. A thread starts when it is first needed.
    pub(super) fn new(read: Box<ReadHardware>) -> Arc<Self> {
        Self::with(read, LIMITS)
    }

    pub(super) fn with(read: Box<ReadHardware>, limits: Limits) -> Arc<Self> {
        let shared = Arc::new(Shared { read, work: Mutex::default() });
        Arc::new(Self { pool: BoundedPool::new(limits), shared })
    }

    /// Records problems there from now on.
    pub(crate) fn set_problems(&self, problems: &Problems) {
        self.work().problems = problems.clone();
    }

    /// Locks the state of the reads.
    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.shared.work.lock()
    }

    fn read(&self, address: PciAddress, may_wake: bool, receiver: Option<oneshot::Sender<Reading>>) -> Read {
        Read { shared: Arc::clone(&self.shared), address, may_wake, receiver }
    }

    /// Begins a round of reads. Each device comes with whether the read may wake it. A device is left out while its
    /// former read hangs.
    pub(super) fn read_all(&self, devices: &[(PciAddress, bool)]) {
        let mut guard = self.work();
        let work = &mut *guard;
        // The rest of the former round goes first, without the devices that are not offered any more.
        self.pool.retain(|read| {
            let offered = devices.iter().find(|(address, _)| *address == read.address);
            match offered {
                _ if read.receiver.is_some() => return true,
                Some(&(_, may_wake)) => read.may_wake = may_wake,
                None => _ = work.outstanding.remove(&read.address),
            }
            offered.is_some()
        });
        let new = devices.iter().filter(|(address, _)| work.outstanding.insert(*address));
        let new: Vec<Read> = new.map(|&(address, may_wake)| self.read(address, may_wake, None)).collect();
        let refused = |read: Read| _ = work.outstanding.remove(&read.address);
        let thread = self.pool.submit_all(new, refused);
        work.record_thread(thread);
    }

    /// Reads a device at once, and wakes it for that. Returns none unless the device slept at its latest read. The reading arrives
    /// at the receiver, and in the next [`Work::done`].
    pub(crate) fn wake(&self, address: PciAddress) -> Option<oneshot::Receiver<Reading>> {
        let work = &mut *self.work();
        if !work.asleep.contains(&address) {
            return None;
        }
        self.withdraw(work, address);
        if work.outstanding.contains(&address) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let submitted = self.pool.submit_first(self.read(address, true, Some(sender))).ok()?;
        work.outstanding.insert(address);
        work.record_thread(submitted.thread);
        Some(receiver)
    }

    /// Forgets a device that was unbound.
    pub(super) fn forget(&self, address: PciAddress) {
        let work = &mut *self.work();
        self.withdraw(work, address);
        work.done.retain(|done| done.address != address);
        work.asleep.remove(&address);
        if work.outstanding.contains(&address) {
            work.gone.insert(address);
        }
    }

    /// Removes a device's read of a round from the queue.
    fn withdraw(&self, work: &mut Work, address: PciAddress) {
        self.pool.retain(|read| {
            let is_other = read.address != address || read.receiver.is_some();
            if !is_other {
                work.outstanding.remove(&address);
            }
            is_other
        });
    }

    /// Ends the threads. No read begins after that; a read that hangs is not waited for.
    pub(crate) fn end(&self) {
        self.pool.close();
    }

    /// Returns whether a read of a device has begun and its reading is not recorded yet.
    #[cfg(test)]
    pub(super) fn is_under_way(&self, id: vfio_probe::DeviceId) -> bool {
        let Some(address) = id.pci() else { return false };
        let work = self.work();
        let mut queued = false;
        self.pool.retain(|read| {
            queued |= read.address == address;
            true
        });
        work.outstanding.contains(&address) && !queued
    }
}

impl fmt::Debug for HardwareReaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HardwareReaders").field("work", &self.shared.work).finish_non_exhaustive()
    }
}

/// The readers of devices that are read in each round. They keep attributes open, as far as the limit of descriptors allows.
#[derive(Debug)]
pub(super) struct KeptReaders {
    readers: Mutex<BTreeMap<PciAddress, PresenceReader>>,
    limit: usize,
}

impl KeptReaders {
    /// Returns no readers yet.
    pub(super) fn new() -> Self {
        Self { readers: Mutex::default(), limit: presence_reader_limit() }
    }

    /// Reads whether a device responds.
    fn presence(&self, root: &Root, address: PciAddress) -> vfio_probe::Result<Presence> {
        // A read that hangs has its reader with it, and locks nothing.
        let kept = self.readers.lock().remove(&address);
        let mut reader = kept.unwrap_or_else(|| PresenceReader::new(address));
        let presence = reader.read(root)?;
        let mut readers = self.readers.lock();
        if readers.len() < self.limit {
            readers.insert(address, reader);
        }
        Ok(presence)
    }

    /// Forgets a device that was unbound.
    pub(super) fn forget(&self, address: PciAddress) {
        self.readers.lock().remove(&address);
    }
}

/// Reads what the checks need of one device in a round, as [`read_device`] does.
pub(super) fn read_in_round(
    root: &Root,
    kept: &KeptReaders,
    checks: Checks,
    address: PciAddress,
    may_wake: bool,
) -> Reading {
    read_with(root, checks, address, may_wake, |root| kept.presence(root, address))
}

/// Reads what the checks need of one device. A part that cannot be read is none, and the debug log has the reason.
fn read_device(root: &Root, checks: Checks, address: PciAddress, may_wake: bool) -> Reading {
    read_with(root, checks, address, may_wake, |root| root.presence(address))
}

fn read_with(
    root: &Root,
    checks: Checks,
    address: PciAddress,
    may_wake: bool,
    read: impl FnOnce(&Root) -> vfio_probe::Result<Presence>,
) -> Reading {
    let log = |error| tracing::debug!(%error, "hardware could not be read");
    let presence = || match read(root).map_err(log).ok()? {
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
    root: &Root,
    checks: Checks,
    address: PciAddress,
    timeout: Duration,
) -> Option<Reading> {
    if !checks.lost && !checks.aer {
        return Some(Reading::default());
    }
    let (sender, receiver) = channel();
    let root = root.clone();
    std::thread::spawn(move || sender.send(read_device(&root, checks, address, false)));
    receiver.recv_timeout(timeout).ok()
}
