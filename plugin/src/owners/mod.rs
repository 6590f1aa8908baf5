//! Which devices pods own, as the rest of the plugin sees it.

mod answer;
mod asking;
pub(crate) mod checkpoint;
pub(crate) mod given;
pub(crate) mod ledger;
mod merging;
mod ownership;
pub(crate) mod pod_resources;

use crate::claims::Claims;
use crate::kubelet_dir::Folder;
use crate::memory::Memory;
use crate::monitoring::Monitoring;
use crate::pools::Fixed;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use ledger::Ledger;
pub(crate) use ownership::Ownership;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// The owners. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: Mutex<Ledger>,
    /// A kubelet that has lost its checkpoint will not tell again what pods own.
    memory: Mutex<Memory>,
    published: watch::Sender<Arc<Ownership>>,
    ask: Notify,
    stale: Notify,
    monitoring: Monitoring,
}

impl Owners {
    /// What was remembered; nothing has been asked yet.
    pub(crate) fn new(settings: &Settings, monitoring: Monitoring) -> Self {
        let memory = Memory::new(&settings.run_dir, "owners.json");
        let mut ledger: Ledger = memory.read();
        ledger.restarted(std::time::Instant::now());
        let ownership = Ownership::new(false, &ledger);
        monitoring.set_remembered(ownership.owned());
        let published = watch::Sender::new(Arc::new(ownership));
        let (ledger, memory) = (Mutex::new(ledger), Mutex::new(memory));
        let (ask, stale) = (Notify::new(), Notify::new());
        Self { shared: Arc::new(Shared { ledger, memory, published, ask, stale, monitoring }) }
    }

    /// Keeps them up to date until the monitor ends.
    pub(crate) async fn follow(
        self,
        settings: Settings,
        claims: Claims,
        contents: watch::Receiver<Folder>,
        snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    ) {
        asking::ask_for_ever(self, settings, claims, contents, snapshots).await;
    }

    /// Who owns what now.
    pub(crate) fn current(&self) -> Arc<Ownership> {
        self.shared.published.borrow().clone()
    }

    /// Tells of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Ownership>> {
        self.shared.published.subscribe()
    }

    /// An Allocate of ours is about to be answered.
    pub(crate) fn granted(
        &self,
        resource: &str,
        ids: BTreeSet<String>,
        real: BTreeSet<String>,
        fixed: Fixed,
    ) {
        let mut ledger = self.ledger();
        let swapped = ids != real;
        ledger.granted(resource, ids, real, fixed, std::time::Instant::now());
        if swapped {
            // The kubelet's books will name the other one; the usual grant is in its checkpoint in a moment.
            self.remember(&ledger);
        }
        let told = self.current().told;
        self.publish(Ownership::new(told, &ledger));
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
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, ledger: &Ledger) {
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner).write(ledger);
    }

    fn publish(&self, ownership: Ownership) {
        self.shared.monitoring.set_owned(ownership.owned());
        self.shared.published.send_replace(Arc::new(ownership));
    }
}
