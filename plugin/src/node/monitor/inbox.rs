//! What other threads leave for the monitor thread, and how they wake it.

use crate::node::probe_exclusions::ProbeExclusions;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vfio_plugin_policy::assignments::reserved::PinnedOffer;
use vfio_probe::{DeviceId, GroupId, Occupancy};

/// The monitor thread's inbox, shared by the thread and its handles.
#[derive(Debug)]
pub(super) struct Inbox {
    reports: Mutex<(Reports, u64)>,
    exclusions: Mutex<ProbeExclusions>,
    /// An eventfd.
    wake: OwnedFd,
    /// The next pass has not begun, and comes without a further wake. True at first: the first pass comes in any case.
    is_woken: AtomicBool,
    stop: AtomicBool,
    started: Instant,
    /// When the latest pass was, in milliseconds after `started`.
    latest_pass: AtomicU64,
}

/// Reports and requests that the monitor thread has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Results of probes that other components made.
    pub(super) probes: Vec<(GroupId, Occupancy)>,
    /// A component saw a state that contradicts the monitor and has no probe result to pass on.
    pub(super) check_now: bool,
    /// A component saw that a device record has changed.
    pub(super) reread_records: bool,
}

impl Inbox {
    /// Returns an empty inbox.
    ///
    /// # Errors
    /// The kernel provides no further descriptor.
    pub(super) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            reports: Mutex::default(),
            exclusions: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_woken: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            started: Instant::now(),
            latest_pass: AtomicU64::new(0),
        })
    }

    /// Adds a report or request, counts it and wakes the thread.
    pub(super) fn report(&self, add: impl FnOnce(&mut Reports)) {
        let mut reports = self.reports.lock();
        add(&mut reports.0);
        reports.1 += 1;
        drop(reports);
        self.wake();
    }

    /// Returns the number of reports and requests since the start.
    pub(super) fn reports_sent(&self) -> u64 {
        self.reports.lock().1
    }

    /// Takes all reports and requests, and returns them with their number since the start.
    pub(super) fn take_reports(&self) -> (Reports, u64) {
        let mut reports = self.reports.lock();
        (std::mem::take(&mut reports.0), reports.1)
    }

    /// Sets a part of the exclusions, and wakes the thread if it has changed.
    pub(super) fn set_exclusion<T: PartialEq>(
        &self,
        part: impl FnOnce(&mut ProbeExclusions) -> &mut T,
        value: T,
    ) {
        let mut exclusions = self.exclusions.lock();
        let known = part(&mut exclusions);
        if *known != value {
            *known = value;
            drop(exclusions);
            self.wake();
        }
    }

    /// Adds assigned devices, and does not wake the thread. Returns false if the assigned devices are not set yet.
    pub(super) fn add_assigned(&self, offers: Vec<(DeviceId, PinnedOffer)>) -> bool {
        let mut exclusions = self.exclusions.lock();
        let Some(assigned) = &mut exclusions.assigned else { return false };
        for (id, offer) in offers {
            assigned.add(id, offer);
        }
        true
    }

    /// Returns the exclusions if they differ from `known`.
    pub(super) fn exclusions_unless(&self, known: &ProbeExclusions) -> Option<ProbeExclusions> {
        let exclusions = self.exclusions.lock();
        (*exclusions != *known).then(|| exclusions.clone())
    }

    /// Wakes the thread, unless its next pass comes anyway.
    pub(super) fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// Begins a pass, which sees all that was left before. A later [`wake`](Self::wake) ends the next wait.
    pub(super) fn begin_pass(&self) {
        self.is_woken.swap(false, Ordering::AcqRel);
    }

    /// Waits until `fd` is readable, another thread calls [`wake`](Self::wake), or `longest` has passed.
    pub(super) fn wait(&self, fd: BorrowedFd<'_>, longest: Duration) {
        let mut fds = [PollFd::new(&fd, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        let timeout = Timespec::try_from(longest).ok();
        if poll(&mut fds, timeout.as_ref()).is_err() {
            // The caller comes back after EINTR. Any other error must not become a busy loop.
            std::thread::sleep(Duration::from_millis(10));
        }
        if fds.get(1).is_some_and(|wake| !wake.revents().is_empty()) {
            let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        }
    }

    /// Lets the thread end. Does not wake it.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns whether the thread shall end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Records that the thread made a pass now.
    pub(super) fn record_pass(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.latest_pass.store(millis, Ordering::Relaxed);
    }

    /// Returns the time since the latest pass.
    pub(super) fn silent_for(&self) -> Duration {
        let latest_pass = Duration::from_millis(self.latest_pass.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(latest_pass)
    }

    /// Returns the time since the start.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn is_readable(fd: &OwnedFd) -> bool {
        let now = Timespec::default();
        poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn wakes_before_a_pass_are_one_and_later_ones_end_a_wait() {
        let inbox = Inbox::new().unwrap();
        let silent = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        inbox.wake();
        assert!(!is_readable(&inbox.wake), "the first pass comes in any case");
        for _ in 0..2 {
            inbox.begin_pass();
            inbox.wake();
            inbox.wake();
            inbox.wait(silent.as_fd(), Duration::from_secs(3600));
            assert!(!is_readable(&inbox.wake));
        }
    }
}
