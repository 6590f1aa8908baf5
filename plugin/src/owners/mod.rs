//! Which devices pods own: asked of the kubelet where something may have changed, remembered, and published.

mod answer;
pub(crate) mod checkpoint;
pub(crate) mod given;
pub(crate) mod ledger;
mod ownership;
mod pod_resources;

use crate::kubelet_dir::{Folder, KubeletSocket};
use crate::memory::Memory;
use crate::monitoring::Monitoring;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use ledger::{Ledger, Round};
pub(crate) use ownership::Ownership;
use pod_resources::Lister;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use vfio_probe::GroupId;

/// The owners, as the rest of the plugin sees them. Clones share them.
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
        let mut ledger: Ledger = remembered(settings).read();
        ledger.restarted(std::time::Instant::now());
        let published = watch::Sender::new(Arc::new(Ownership::new(false, &ledger)));
        let ledger = Mutex::new(ledger);
        let (ask, stale) = (Notify::new(), Notify::new());
        Self { shared: Arc::new(Shared { ledger, published, ask, stale, monitoring }) }
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

    /// Asks for ever: when occupancy changes, after each Allocate, when the kubelet's socket or its checkpoint is another
    /// one, and now and then while anything is held or owned. Never more often than once an interval: the kubelet's rate
    /// limit is for all its clients together.
    pub(crate) async fn follow(
        self,
        settings: Settings,
        mut contents: watch::Receiver<Folder>,
        mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    ) {
        let mut asking = Asking {
            owners: self.clone(),
            lister: Lister::new(settings.pod_resources.clone()),
            memory: remembered(&settings),
            settings,
            cgroups_seen: false,
            troubled: None,
        };
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let folder = *contents.borrow_and_update();
            let seen = Seen::of(snapshot.as_deref(), &folder, &asking.settings);
            let asked = Instant::now();
            let soon = asking.round(snapshot.as_deref(), folder.kubelet).await;
            let earliest = asked + asking.settings.interval;
            let idle = !soon && seen.held.is_empty() && !self.current().any();
            let period = if soon { asking.settings.interval } else { asking.settings.owners_interval };
            loop {
                let due = tokio::select! {
                    () = self.shared.ask.notified() => true,
                    () = sleep_until(asked + period), if !idle => true,
                    changed = contents.changed() => changed.is_err() || {
                        let folder = *contents.borrow();
                        seen.folder_differs(&folder, &asking.settings)
                    },
                    changed = snapshots.changed() => {
                        if changed.is_err() {
                            return; // The monitor has ended.
                        }
                        !asking.cgroups_seen || seen.held != held(snapshots.borrow().as_deref())
                    }
                };
                if due {
                    break;
                }
            }
            sleep_until(earliest).await;
        }
    }
}

/// What the latest asking saw; where it differs another is due.
#[derive(Debug)]
struct Seen {
    held: Vec<GroupId>,
    kubelet: Option<KubeletSocket>,
    checkpoint: Option<(u64, SystemTime)>,
}

impl Seen {
    fn of(snapshot: Option<&Snapshot>, folder: &Folder, settings: &Settings) -> Self {
        Self { held: held(snapshot), kubelet: folder.kubelet, checkpoint: stamp(settings) }
    }

    fn folder_differs(&self, folder: &Folder, settings: &Settings) -> bool {
        self.kubelet != folder.kubelet || self.checkpoint != stamp(settings)
    }
}

fn held(snapshot: Option<&Snapshot>) -> Vec<GroupId> {
    let devices = snapshot.map(|snapshot| snapshot.devices.as_slice()).unwrap_or_default();
    let groups = devices.iter().filter_map(|view| view.group.as_ref());
    let mut held: Vec<GroupId> =
        groups.filter(|group| group.occupancy.is_held()).map(|group| group.id).collect();
    held.dedup();
    held
}

/// A kubelet that has lost its checkpoint will not tell again what pods own.
fn remembered(settings: &Settings) -> Memory {
    Memory::new(&settings.run_dir, "owners.json")
}

/// Which checkpoint: the kubelet writes a new file each time and renames it into place (`FileStore.Write`).
fn stamp(settings: &Settings) -> Option<(u64, SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(settings.kubelet_dir.join(kubelet_api::CHECKPOINT)).ok()?;
    Some((metadata.ino(), metadata.modified().ok()?))
}

/// What asking needs, from one time to the next.
struct Asking {
    owners: Owners,
    lister: Lister,
    memory: Memory,
    settings: Settings,
    /// Holders' cgroups count after our own start only: later whoever holds without owning is foreign.
    cgroups_seen: bool,
    troubled: Option<String>,
}

impl Asking {
    /// Asks once; whether to ask again soon.
    async fn round(&mut self, snapshot: Option<&Snapshot>, kubelet: Option<KubeletSocket>) -> bool {
        let pods = self.lister.list().await;
        // After the list, so that the checkpoint has whoever was admitted meanwhile.
        let checkpoint = checkpoint::read(&self.settings.kubelet_dir);
        let cgroups = match snapshot {
            Some(snapshot) if !self.cgroups_seen => cgroups(snapshot),
            _ => Vec::new(),
        };
        self.cgroups_seen |= snapshot.is_some() && checkpoint.is_some();
        let round = Round {
            now: std::time::Instant::now(),
            pods: pods.as_deref().ok(),
            checkpoint: checkpoint.as_deref(),
            kubelet,
            young: kubelet.is_some_and(|kubelet| kubelet.age() < self.settings.kubelet_start),
            settling: self.settings.settling,
            cgroups: &cgroups,
        };
        let owners = self.owners.clone();
        let mut ledger = owners.ledger();
        let outcome = ledger.take(&round);
        tracing::debug!(pods = ?round.pods, checkpoint = ?round.checkpoint, young = round.young, given = ?ledger.given(), "asked");
        owners.publish(Ownership::new(outcome.answered, &ledger));
        self.memory.write(&*ledger);
        drop(ledger);
        if outcome.stale {
            owners.shared.stale.notify_one();
        }
        self.complain(pods.err(), outcome.answered);
        outcome.ask_again
    }

    fn complain(&mut self, trouble: Option<String>, answered: bool) {
        if trouble == self.troubled {
            return;
        }
        match &trouble {
            Some(error) if answered => {
                tracing::warn!(error, "pods cannot be listed; owners are told by the kubelet's checkpoint");
            }
            Some(error) => {
                tracing::warn!(
                    error,
                    "neither pods nor the kubelet's checkpoint can be read: held devices stay as they are, Allocate refuses them"
                );
            }
            None => tracing::info!("pods are listed again"),
        }
        self.troubled = trouble;
    }
}

/// Held devices with the pod of their holder's cgroup.
fn cgroups(snapshot: &Snapshot) -> Vec<(String, BTreeSet<String>, String)> {
    let mut found: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for view in &snapshot.devices {
        let holders = view.group.as_ref().map(|group| group.holders.as_slice()).unwrap_or_default();
        for uid in holders.iter().filter_map(|holder| holder.owner.pod_uid) {
            let ids = found.entry((view.resource.to_string(), uid.to_string())).or_default();
            ids.insert(view.device.id.to_string());
        }
    }
    found.into_iter().map(|((resource, uid), ids)| (resource, ids, uid)).collect()
}
