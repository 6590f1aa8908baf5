//! Which devices pods own, as the rest of the plugin sees it.

pub(crate) mod poller;

use crate::config::Config;
use crate::kubelet::socket_watch::PluginDirState;
use crate::node::monitor::MonitorHandle;
use crate::reservations::Reservations;
use crate::state_file::StateFile;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::ledger::Ledger;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::pools::terms::PinnedTerms;

/// The owners. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct AssignmentsHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: Mutex<Ledger>,
    /// A kubelet that has lost its checkpoint will not tell again what pods own.
    state_file: Mutex<StateFile>,
    published: watch::Sender<Arc<Assignments>>,
    ask: Notify,
    stale: Notify,
    monitor: MonitorHandle,
}

impl AssignmentsHandle {
    /// What was remembered; nothing has been asked yet.
    pub(crate) fn new(config: &Config, monitor: MonitorHandle) -> Self {
        let state_file = StateFile::new(&config.run_dir, "owners.json");
        let mut ledger: Ledger = state_file.read();
        ledger.restarted(std::time::Instant::now());
        let ownership = Assignments::new(false, &ledger);
        monitor.set_restored(ownership.reserved());
        let published = watch::Sender::new(Arc::new(ownership));
        let (ledger, state_file) = (Mutex::new(ledger), Mutex::new(state_file));
        let (ask, stale) = (Notify::new(), Notify::new());
        Self { shared: Arc::new(Shared { ledger, state_file, published, ask, stale, monitor }) }
    }

    /// Keeps them up to date until the monitor ends.
    pub(crate) async fn follow(
        self,
        config: Config,
        reservations: Reservations,
        contents: watch::Receiver<PluginDirState>,
        snapshots: watch::Receiver<Option<Arc<NodeSnapshot>>>,
    ) {
        poller::ask_for_ever(self, config, reservations, contents, snapshots).await;
    }

    /// Who owns what now.
    pub(crate) fn current(&self) -> Arc<Assignments> {
        self.shared.published.borrow().clone()
    }

    /// Tells of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Assignments>> {
        self.shared.published.subscribe()
    }

    /// An Allocate of ours is about to be answered.
    pub(crate) fn record_allocate(
        &self,
        resource: &str,
        ids: BTreeSet<String>,
        real: BTreeSet<String>,
        pinned: PinnedTerms,
    ) {
        let mut ledger = self.ledger();
        let swapped = ids != real;
        ledger.record_allocate(resource, ids, real, pinned, std::time::Instant::now());
        if swapped {
            // The kubelet's books will name the other one; the usual grant is in its checkpoint in a moment.
            self.remember(&ledger);
        }
        let told = self.current().known;
        self.publish(Assignments::new(told, &ledger));
        drop(ledger);
        self.ask();
    }

    /// Asks the kubelet soon.
    pub(crate) fn ask(&self) {
        self.shared.ask.notify_one();
    }

    /// Waits until the kubelet's checkpoint names pods that it does not list: it is written anew with every list of ours
    /// (`genericDeviceUpdateCallback`), also with one that says nothing new.
    pub(crate) async fn checkpoint_is_stale(&self) {
        self.shared.stale.notified().await;
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock()
    }

    fn remember(&self, ledger: &Ledger) {
        self.shared.state_file.lock().write(ledger);
    }

    fn publish(&self, ownership: Assignments) {
        self.shared.monitor.set_assigned(ownership.reserved());
        self.shared.published.send_replace(Arc::new(ownership));
    }
}
