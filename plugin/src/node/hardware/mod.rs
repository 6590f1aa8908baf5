//! Checks the hardware of each device at a slow pace, and keeps what the readings show.

pub(crate) mod framebuffer;
pub(crate) mod readers;
#[cfg(test)]
mod tests;

use framebuffer::Framebuffers;
use readers::{HardwareReaders, KeptReaders, ReadHardware, read_in_round};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_plugin_policy::device::{HardwareHealth, NodeSnapshot};
use vfio_plugin_policy::health::checks::Checks;
use vfio_plugin_policy::health::hardware::HardwareHistory;
use vfio_probe::{DeviceId, Presence, Root};

/// A lost device may be woken in one of this many rounds: once a minute by default.
const WAKING: u32 = 6;

/// How often hardware is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// The time between two rounds of reads.
    pub(crate) interval: Duration,
    /// How long a state must last to count. A device is first read this long after its bind.
    pub(crate) settling: Duration,
}

/// The state of the devices' hardware. The monitor thread drives it; the reads run on threads of the readers.
pub(crate) struct HardwareMonitor {
    timing: Timing,
    histories: BTreeMap<DeviceId, HardwareHistory>,
    readers: Arc<HardwareReaders>,
    /// What the reads of the rounds keep open.
    kept: Arc<KeptReaders>,
    /// Whether a check reads the devices themselves.
    reads_devices: bool,
    /// When the next round begins.
    due: Instant,
    /// What uses the devices' memory; none if the check is off.
    framebuffers: Option<Framebuffers>,
}

impl HardwareMonitor {
    /// Returns a monitor that has read nothing yet; none if no check needs one. `path` is the root's directory. `lost` are the devices with lost hardware when
    /// the previous process ended. They stay lost until they respond.
    pub(crate) fn new(
        (root, path): (Root, &Path),
        checks: Checks,
        timing: Timing,
        lost: impl Iterator<Item = DeviceId>,
        now: Instant,
    ) -> Option<Self> {
        let reads_devices = checks.lost || checks.aer;
        if !reads_devices && !checks.framebuffer {
            return None;
        }
        let kept = Arc::new(KeptReaders::new());
        let of_rounds = Arc::clone(&kept);
        let read = move |address, may_wake| read_in_round(&root, &of_rounds, checks, address, may_wake);
        let mut new = Self::with(Box::new(read), kept, timing, now);
        let lost = lost.filter(|_| checks.lost);
        new.reads_devices = reads_devices;
        let framebuffers = || Framebuffers::new(path.to_owned(), timing.interval, now);
        new.framebuffers = checks.framebuffer.then(framebuffers);
        new.histories = lost.map(|id| (id, HardwareHistory::new(true, timing.settling))).collect();
        Some(new)
    }

    fn with(read: Box<ReadHardware>, kept: Arc<KeptReaders>, timing: Timing, now: Instant) -> Self {
        let due = now + timing.settling.min(timing.interval);
        Self {
            timing,
            histories: BTreeMap::new(),
            readers: HardwareReaders::new(read),
            kept,
            reads_devices: true,
            due,
            framebuffers: None,
        }
    }

    /// Returns the readers, which Allocate uses for devices that sleep.
    pub(crate) fn readers(&self) -> Arc<HardwareReaders> {
        Arc::clone(&self.readers)
    }

    /// Takes in that a device was bound: a round comes when it has settled.
    pub(crate) fn bound(&mut self, now: Instant) {
        self.due = self.due.min(now + self.timing.settling);
        if let Some(framebuffers) = &mut self.framebuffers {
            framebuffers.bound(now);
        }
    }

    /// Takes in that a device was unbound: its history ends, and a read that is under way is dropped.
    pub(crate) fn unbound(&mut self, id: DeviceId) {
        self.histories.remove(&id);
        if let Some(address) = id.pci() {
            self.readers.forget(address);
            self.kept.forget(address);
        }
    }

    /// Returns the state of a device's hardware.
    pub(crate) fn hardware(&self, id: DeviceId) -> HardwareHealth {
        let confirmed = self.histories.get(&id).map(HardwareHistory::health).unwrap_or_default();
        let bar_user = self.framebuffers.as_ref().and_then(|framebuffers| framebuffers.user_of(id));
        HardwareHealth { bar_user, ..confirmed }
    }

    /// Takes in the readings since the former call. Returns whether the state of any device has changed.
    pub(crate) fn take_readings(&mut self) -> bool {
        let readings = std::mem::take(&mut self.readers.work().done);
        let mut changed = false;
        for done in readings {
            let id = DeviceId::Pci(done.address);
            let before = self.hardware(id);
            let new = || HardwareHistory::new(false, self.timing.settling);
            let history = self.histories.entry(id).or_insert_with(new);
            if done.urgent && done.reading.presence == Some(Presence::Lost) {
                history.confirm_lost(done.at);
            } else {
                history.record(done.reading, done.at);
            }
            // A time in the past would make a round of every pass.
            if let Some(due) = history.next_check().filter(|due| *due > done.at) {
                self.due = self.due.min(due);
            }
            changed |= self.hardware(id) != before;
        }
        changed
    }

    /// Reads what uses the devices' memory if it is time for that. Returns whether it has changed. Touches no hardware.
    pub(crate) fn read_framebuffers(&mut self, now: Instant) -> bool {
        self.framebuffers.as_mut().is_some_and(|framebuffers| framebuffers.refresh(now))
    }

    /// Begins a round of reads if it is time for one.
    pub(crate) fn read(&mut self, snapshot: &NodeSnapshot, now: Instant) {
        if !self.reads_devices || now < self.due {
            return;
        }
        self.due = now + self.timing.interval;
        let every = self.timing.interval * WAKING;
        let mut devices = Vec::new();
        for state in &snapshot.devices {
            let Some(address) = state.device.id.pci() else { continue };
            // A held device is never woken: the VM's guest may have put it to sleep, and would find it awake.
            let history = self.histories.get_mut(&state.device.id);
            let may_wake = !state.is_held() && history.is_some_and(|history| history.may_wake(every, now));
            devices.push((address, may_wake));
        }
        self.readers.read_all(&devices);
    }
}

impl Drop for HardwareMonitor {
    fn drop(&mut self) {
        self.readers.end();
    }
}
