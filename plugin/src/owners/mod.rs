//! Which devices pods own, as the rest of the plugin sees it.

mod answer;
mod asking;
pub(crate) mod checkpoint;
pub(crate) mod given;
pub(crate) mod ledger;
mod ownership;
pub(crate) mod pod_resources;

use crate::claims::Claims;
use crate::kubelet_dir::Folder;
use crate::monitoring::Monitoring;
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
    published: watch::Sender<Arc<Ownership>>,
    ask: Notify,
    stale: Notify,
    monitoring: Monitoring,
}

impl Owners {
    /// What was remembered; nothing has been asked yet.
    pub(crate) fn new(settings: &Settings, monitoring: Monitoring) -> Self {
        let mut ledger: Ledger = asking::memory(settings).read();
        ledger.restarted(std::time::Instant::now());
        let published = watch::Sender::new(Arc::new(Ownership::new(false, &ledger)));
        let ledger = Mutex::new(ledger);
        let (ask, stale) = (Notify::new(), Notify::new());
        Self { shared: Arc::new(Shared { ledger, published, ask, stale, monitoring }) }
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
    pub(crate) fn granted(&self, resource: &str, ids: BTreeSet<String>, real: BTreeSet<String>) {
        let mut ledger = self.ledger();
        ledger.granted(resource, ids, real, std::time::Instant::now());
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

    fn publish(&self, ownership: Ownership) {
        self.shared.monitoring.set_owned(ownership.owned());
        self.shared.published.send_replace(Arc::new(ownership));
    }
}
