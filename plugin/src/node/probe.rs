//! One group opened from async code, by a deadline.

use crate::node::monitor::MonitorHandle;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use vfio_probe::prober::{ProbeResult, Request};
use vfio_probe::{GroupId, Occupancy, UnknownReason};

/// An open takes microseconds unless it hangs, so its answer is waited for on the spot this long: that spares a timer, two
/// wakeups by way of the runtime's epoll, and a third of an Allocate's CPU. What else is served waits as long.
const AT_ONCE: Duration = Duration::from_millis(1);
/// Pause before a group is asked whose last question has no answer yet.
const OUTSTANDING: Duration = Duration::from_millis(5);

/// An answer on its way.
#[derive(Default)]
struct Pending {
    answer: Mutex<Option<Occupancy>>,
    arrived: Condvar,
    notify: Notify,
}

impl Pending {
    fn give(&self, answer: Occupancy) {
        *self.answer.lock() = Some(answer);
        self.arrived.notify_one();
        self.notify.notify_one();
    }

    fn wait(&self) -> Option<Occupancy> {
        let mut answer = self.answer.lock();
        self.arrived.wait_while_for(&mut answer, |answer| answer.is_none(), AT_ONCE);
        *answer
    }
}

/// An open that has begun.
pub(crate) struct PendingProbe<'a> {
    monitor: &'a MonitorHandle,
    group: GroupId,
    deadline: Instant,
    /// None if it could not begin: the monitor is opening the group just now.
    pending: Option<Arc<Pending>>,
}

/// Begins to open a group on a helper thread, of which there are several: one that hangs delays no other.
pub(crate) fn begin(monitor: &MonitorHandle, group: GroupId, deadline: Instant) -> PendingProbe<'_> {
    let mut opening = PendingProbe { monitor, group, deadline, pending: None };
    opening.start();
    opening
}

/// Opens a group; `Unknown` if that is not allowed or takes longer than until `deadline`.
pub(crate) async fn open(monitor: &MonitorHandle, group: GroupId, deadline: Instant) -> Occupancy {
    begin(monitor, group, deadline).answer().await
}

impl PendingProbe<'_> {
    fn start(&mut self) {
        if !self.monitor.probe {
            return;
        }
        let pending = Arc::new(Pending::default());
        let theirs = Arc::clone(&pending);
        let request =
            Request { group: self.group, baseline_of: Vec::new(), deadline: self.deadline.into_std() };
        let done = Box::new(move |answer: ProbeResult, _| theirs.give(answer.occupancy));
        self.pending = self.monitor.prober.start(request, done).is_ok().then_some(pending);
    }

    /// Which group is opened.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// Its answer; `Unknown` if it is not allowed or takes longer than until the deadline.
    pub(crate) async fn answer(mut self) -> Occupancy {
        if !self.monitor.probe {
            return Occupancy::Unknown(UnknownReason::Denied);
        }
        loop {
            if let Some(pending) = &self.pending {
                if let Some(answer) = pending.wait() {
                    return answer;
                }
                // Nobody may be there to ask: all helpers may hang.
                self.monitor.prober.ensure_progress();
                let _ = timeout_at(self.deadline, pending.notify.notified()).await;
                let answer = *pending.answer.lock();
                return answer.unwrap_or(Occupancy::Unknown(UnknownReason::TimedOut));
            }
            // The monitor is opening it just now, for microseconds unless it hangs.
            if Instant::now() + OUTSTANDING >= self.deadline {
                return Occupancy::Unknown(UnknownReason::TimedOut);
            }
            sleep(OUTSTANDING).await;
            self.start();
        }
    }
}
