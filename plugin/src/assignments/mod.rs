//! The assignments as the rest of the plugin sees them: the current ones, their changes, and the Allocates of this plugin.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`poller`] | polls the kubelet and passes what it shows to the ledger |
//! | [`schedule`] | when the next poll is due |
//! | [`inputs`] | what a poll takes from the node and from the kubelet's directory |
//! | [`state`] | the state file assignments.json |

mod inputs;
mod poller;
mod schedule;
mod state;

use crate::assignments::state::{AssignmentsFile, AssignmentsState};
use crate::node::monitor::MonitorHandle;
use crate::problems::Problems;
use crate::run_dir::RunDir;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, watch};
#[cfg(feature = "dra")]
use vfio_plugin_policy::assignments::claims::ClaimedDevices;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::record::Assignment;
use vfio_probe::DeviceId;

/// A handle on the assignments. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct AssignmentsHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<AssignmentsState>,
    /// Keeps the state over a restart: a kubelet that has lost its checkpoint does not show the assignments again.
    file: Mutex<AssignmentsFile>,
    published: watch::Sender<Arc<Assignments>>,
    /// What has changed since [`AssignmentsHandle::take`]. Locked while `published` changes.
    changes: Mutex<Changes>,
    times_matter: AtomicBool,
    poll_soon: Notify,
    /// Whether polls wait.
    polls_paused: watch::Sender<bool>,
    checkpoint_is_stale: Notify,
    monitor: MonitorHandle,
    /// The assignments of prepared claims. None without the DRA driver.
    #[cfg(feature = "dra")]
    claims: Mutex<Option<Arc<[ClaimedDevices]>>>,
    /// Whether the kubelet was polled.
    has_polled: AtomicBool,
    /// Has what the kubelet does not show.
    problems: Problems,
}

impl AssignmentsHandle {
    /// Returns the assignments that an earlier process left in the state file. The kubelet is not polled yet.
    pub(crate) fn new(run_dir: &RunDir, monitor: MonitorHandle) -> Self {
        let (file, mut state) = AssignmentsFile::open(run_dir);
        state.ledger.restarted(std::time::Instant::now());
        let assignments = Assignments::new(false, &state.ledger);
        monitor.set_restored(assignments.reserved());
        let shared = Shared {
            state: Mutex::new(state),
            file: Mutex::new(file),
            published: watch::Sender::new(Arc::new(assignments)),
            changes: Mutex::new(Changes::All),
            times_matter: AtomicBool::new(false),
            poll_soon: Notify::new(),
            polls_paused: watch::Sender::new(false),
            checkpoint_is_stale: Notify::new(),
            monitor,
            #[cfg(feature = "dra")]
            claims: Mutex::new(None),
            has_polled: AtomicBool::new(false),
            problems: run_dir.problems.clone(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the current assignments.
    pub(crate) fn current(&self) -> Arc<Assignments> {
        self.shared.published.borrow().clone()
    }

    /// Returns a receiver of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Assignments>> {
        self.shared.published.subscribe()
    }

    /// Records the assignments of one Allocate that is about to be answered, one for each container. Wakes the poller.
    ///
    /// Usually the ledger takes them in at the next poll, and the cost depends on the allocated devices alone.
    pub(crate) fn record_allocates(&self, mut allocates: Vec<Assignment>) {
        allocates.retain(|allocate| !allocate.device_ids.is_empty());
        if allocates.is_empty() {
            return;
        }
        let mut state = self.shared.state.lock();
        let current = self.current();
        let allocates: Vec<Arc<Assignment>> = allocates.into_iter().map(Arc::new).collect();
        if let Some(next) = current.with_allocates(&allocates) {
            let offers = Assignments::pinned_by(&allocates);
            let mut changes = self.shared.changes.lock();
            changes.add(offers.iter().map(|(id, _)| *id));
            if !self.shared.monitor.add_assigned(offers) {
                self.shared.monitor.set_assigned(next.reserved());
            }
            self.shared.published.send_replace(Arc::new(next));
        } else {
            let is_substitution = allocates.iter().any(|record| record.device_ids != record.checkpoint_ids);
            state.ledger.add_allocates(current.added().iter().map(|added| (**added).clone()));
            state.ledger.add_allocates(allocates.iter().map(|allocate| (**allocate).clone()));
            if is_substitution {
                // The kubelet's checkpoint will name the other device. Without a substitution it names this one in a moment.
                self.shared.file.lock().write(&state);
            }
            self.publish(Assignments::new(current.known, &state.ledger));
        }
        drop(state);
        self.poll_soon();
    }

    /// Writes the state file with everything that is known now, Allocates since the latest poll included. Returns whether it has that
    /// content; a write that has not ended in time may still change the file.
    pub(crate) fn save(&self) -> bool {
        let mut state = self.shared.state.lock().clone();
        state.ledger.add_allocates(self.current().added().iter().map(|added| (**added).clone()));
        let mut file = self.shared.file.lock();
        file.write(&state);
        file.is_written()
    }

    /// Reads the state file again, and adds what it says: another process has answered Allocates since it was read. A process that was
    /// killed has not written its latest ones, which the kubelet may have shown this one.
    pub(crate) fn reload(&self, run_dir: &RunDir) {
        let (file, mut stored) = AssignmentsFile::open(run_dir);
        let mut state = self.shared.state.lock();
        *self.shared.file.lock() = file;
        // No file, or one that cannot be used: what this process has read from the kubelet is more.
        if !stored.ledger.assignments().is_empty() {
            stored.ledger.restarted(std::time::Instant::now());
            let mut seen = state.ledger.assignments().to_vec();
            let is_stored =
                |id: &String| stored.ledger.assignments().iter().any(|record| record.device_ids.contains(id));
            seen.retain(|record| !record.device_ids.iter().any(is_stored));
            stored.ledger.add_allocates(seen);
            *state = stored;
            self.publish(Assignments::new(self.current().known, &state.ledger));
        }
        drop(state);
        self.poll_soon();
    }

    /// Sets whether polls of the kubelet wait, because it may be calling Allocate of another process.
    pub(crate) fn pause_polls(&self, pause: bool) {
        self.shared.polls_paused.send_replace(pause);
    }

    /// Waits while polls are paused.
    async fn polls_resume(&self) {
        let _ = self.shared.polls_paused.subscribe().wait_for(|paused| !paused).await;
    }

    /// Sets the assignments of the prepared claims, instead of those that were set before. The monitor probes none of these devices
    /// when this returns.
    #[cfg(feature = "dra")]
    pub(crate) fn set_claims(&self, claims: &Arc<[ClaimedDevices]>) {
        let mut state = self.shared.state.lock();
        let current = self.current();
        state.ledger.add_allocates(current.added().iter().map(|added| (**added).clone()));
        *self.shared.claims.lock() = Some(Arc::clone(claims));
        let assignments = Assignments::new(current.known, &state.ledger);
        if self.shared.has_polled.load(Ordering::Relaxed) {
            self.publish(assignments);
        } else {
            // The devices of pods are not known yet, so the monitor still waits for the first poll before it probes.
            let assignments = assignments.with_claims(claims);
            self.shared.monitor.set_restored(assignments.reserved());
            self.shared.published.send_replace(Arc::new(assignments));
        }
    }

    /// Returns whether the kubelet was polled. Before that, a pod of the device plugin may have any device.
    pub(crate) fn has_polled(&self) -> bool {
        self.shared.has_polled.load(Ordering::Relaxed)
    }

    /// Wakes the poller: a pod may have come or gone.
    pub(crate) fn poll_soon(&self) {
        self.shared.poll_soon.notify_one();
    }

    /// Waits until the kubelet's checkpoint names pods that the kubelet does not list. The kubelet writes the checkpoint again
    /// with every device list that it receives (`genericDeviceUpdateCallback`), even with an unchanged one.
    pub(crate) async fn checkpoint_is_stale(&self) {
        self.shared.checkpoint_is_stale.notified().await;
    }

    /// Returns the current assignments, and what has changed in them since the previous call.
    pub(crate) fn take(&self) -> (Arc<Assignments>, Changes) {
        let mut changes = self.shared.changes.lock();
        (self.current(), std::mem::replace(&mut *changes, Changes::Devices(Vec::new())))
    }

    /// Sets whether it matters when the kubelet last showed an assignment. Otherwise a poll that shows nothing else wakes no task.
    pub(crate) fn set_times_matter(&self, matter: bool) {
        self.shared.times_matter.store(matter, Ordering::Relaxed);
    }

    /// Publishes the assignments, to the monitor first: it must not probe an assigned device.
    fn publish(&self, assignments: Assignments) {
        #[cfg(feature = "dra")]
        let assignments = match &*self.shared.claims.lock() {
            Some(claims) => assignments.with_claims(claims),
            None => assignments,
        };
        self.shared.monitor.set_assigned(assignments.reserved());
        let mut changes = self.shared.changes.lock();
        self.shared.published.send_if_modified(|known| {
            let times_matter = self.shared.times_matter.load(Ordering::Relaxed);
            let changed = times_matter || !assignments.differs_only_in_time(known);
            *known = Arc::new(assignments);
            if changed {
                *changes = Changes::All;
            }
            changed
        });
    }
}

/// What has changed in the assignments.
#[derive(Debug)]
pub(crate) enum Changes {
    /// Allocates were added for these devices.
    Devices(Vec<DeviceId>),
    /// Anything may have changed.
    All,
}

impl Changes {
    fn add(&mut self, ids: impl Iterator<Item = DeviceId>) {
        if let Self::Devices(devices) = self {
            devices.extend(ids);
        }
    }
}
