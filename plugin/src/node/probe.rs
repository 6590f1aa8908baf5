//! Probes a group from async code, with a deadline.

use crate::node::monitor::MonitorHandle;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use vfio_probe::prober::{ProbeResult, Request};
use vfio_probe::{GroupId, Occupancy, UnknownReason};

/// How long the async thread blocks for a result. An open takes microseconds unless it hangs, and this wait saves a timer, two
/// wakeups through the runtime's epoll, and a third of an Allocate's CPU time. Other requests wait meanwhile.
const BLOCKING_WAIT: Duration = Duration::from_millis(1);
/// The pause before a group is probed if its former probe has no result yet.
const OUTSTANDING: Duration = Duration::from_millis(5);

/// Passes a result from the prober's thread to the async code.
#[derive(Default)]
struct Slot {
    result: Mutex<Option<Occupancy>>,
    arrived: Condvar,
    notify: Notify,
}

impl Slot {
    fn set(&self, result: Occupancy) {
        *self.result.lock() = Some(result);
        self.arrived.notify_one();
        self.notify.notify_one();
    }

    fn wait(&self) -> Option<Occupancy> {
        let mut result = self.result.lock();
        self.arrived.wait_while_for(&mut result, |result| result.is_none(), BLOCKING_WAIT);
        *result
    }
}

/// A probe that has begun.
pub(crate) struct PendingProbe<'a> {
    monitor: &'a MonitorHandle,
    group: GroupId,
    deadline: Instant,
    /// None if the probe could not begin, because the monitor is probing the same group.
    slot: Option<Arc<Slot>>,
}

/// Begins a probe of a group on a thread of the prober. There are several, so a probe that hangs delays no other.
pub(crate) fn begin(monitor: &MonitorHandle, group: GroupId, deadline: Instant) -> PendingProbe<'_> {
    let mut probe = PendingProbe { monitor, group, deadline, slot: None };
    probe.start();
    probe
}

/// Probes a group. Returns `Unknown` if probes are turned off or there is no result by the deadline.
pub(crate) async fn open(monitor: &MonitorHandle, group: GroupId, deadline: Instant) -> Occupancy {
    begin(monitor, group, deadline).result().await
}

impl PendingProbe<'_> {
    fn start(&mut self) {
        if !self.monitor.probe {
            return;
        }
        let slot = Arc::new(Slot::default());
        let of_prober = Arc::clone(&slot);
        let request =
            Request { group: self.group, baseline_of: Vec::new(), deadline: self.deadline.into_std() };
        let done = Box::new(move |result: ProbeResult, _| of_prober.set(result.occupancy));
        self.slot = self.monitor.prober.start(request, done).is_ok().then_some(slot);
    }

    /// Returns the group.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// Waits for the result. Returns `Unknown` if probes are turned off or there is no result by the deadline.
    pub(crate) async fn result(mut self) -> Occupancy {
        if !self.monitor.probe {
            return Occupancy::Unknown(UnknownReason::Denied);
        }
        loop {
            if let Some(slot) = &self.slot {
                if let Some(result) = slot.wait() {
                    return result;
                }
                // All threads of the prober may hang, so that none has begun the probe.
                self.monitor.prober.ensure_progress();
                let _ = timeout_at(self.deadline, slot.notify.notified()).await;
                let result = *slot.result.lock();
                return result.unwrap_or(Occupancy::Unknown(UnknownReason::TimedOut));
            }
            // The monitor is probing the group, which takes microseconds unless the open hangs.
            if Instant::now() + OUTSTANDING >= self.deadline {
                return Occupancy::Unknown(UnknownReason::TimedOut);
            }
            sleep(OUTSTANDING).await;
            self.start();
        }
    }
}
