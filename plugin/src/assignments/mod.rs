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
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::pools::terms::PinnedTerms;

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
    poll_soon: Notify,
    checkpoint_is_stale: Notify,
    monitor: MonitorHandle,
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
            poll_soon: Notify::new(),
            checkpoint_is_stale: Notify::new(),
            monitor,
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

    /// Records an Allocate that is about to be answered: the kubelet requested `checkpoint_ids`, and the container gets
    /// `device_ids`. Wakes the poller.
    pub(crate) fn record_allocate(
        &self,
        resource: &str,
        checkpoint_ids: BTreeSet<String>,
        device_ids: BTreeSet<String>,
        pinned: PinnedTerms,
    ) {
        let mut state = self.shared.state.lock();
        let is_substitution = checkpoint_ids != device_ids;
        let now = std::time::Instant::now();
        state.ledger.record_allocate(resource, checkpoint_ids, device_ids, pinned, now);
        if is_substitution {
            // The kubelet's checkpoint will name the other device. Without a substitution it names this one in a moment.
            self.shared.file.lock().write(&state);
        }
        self.publish(Assignments::new(self.current().known, &state.ledger));
        drop(state);
        self.poll_soon();
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

    /// Publishes the assignments, to the monitor first: it must not probe an assigned device.
    fn publish(&self, assignments: Assignments) {
        self.shared.monitor.set_assigned(assignments.reserved());
        self.shared.published.send_replace(Arc::new(assignments));
    }
}
