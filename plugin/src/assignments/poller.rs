//! When the kubelet is asked who owns what, and what is done with its answer.

use crate::assignments::AssignmentsHandle;
use crate::config::Config;
use crate::kubelet::checkpoint;
use crate::kubelet::pod_resources::Lister;
use crate::kubelet::socket_watch::PluginDirState;
use crate::reservations::Reservations;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;
use vfio_plugin_policy::assignments::observation::{
    CheckpointEntry, LedgerUpdate, ListedPod, Observation, PodHolds,
};
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_probe::GroupId;

/// After our start the checkpoint alone says who owns what, if the kubelet takes longer than this to list its pods: the
/// first opens and the first list wait for it.
const FIRST: Duration = Duration::from_millis(300);

/// Asks for ever: when occupancy changes, after each Allocate, when the kubelet's socket or its checkpoint is another one,
/// and now and then while anything is held or owned. Never more often than once an interval, since the kubelet's rate limit
/// is for all its clients together, and never during an Allocate.
pub(super) async fn ask_for_ever(
    owners: AssignmentsHandle,
    config: Config,
    reservations: Reservations,
    mut contents: watch::Receiver<PluginDirState>,
    mut snapshots: watch::Receiver<Option<Arc<NodeSnapshot>>>,
) {
    let mut lister = Lister::new(config.pod_resources.clone());
    let mut poller = Poller::new(owners.clone(), config);
    loop {
        reservations.idle().await;
        let snapshot = snapshots.borrow_and_update().clone();
        let folder = *contents.borrow_and_update();
        let seen = Seen::of(snapshot.as_deref(), &folder, &poller.config);
        let asked = Instant::now();
        let pods = match poller.begun {
            true => lister.list().await,
            false => poller.first(&mut lister, folder.kubelet).await,
        };
        let pause = poller.take(pods, snapshot.as_deref(), folder.kubelet);
        let idle = poller.content && seen.held.is_empty() && owners.current().is_empty();
        loop {
            let due = tokio::select! {
                () = owners.shared.ask.notified() => true,
                () = sleep_until(asked + pause), if !idle => true,
                changed = contents.changed() => changed.is_err() || {
                    let folder = *contents.borrow();
                    seen.folder_differs(&folder, &poller.config)
                },
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return; // The monitor has ended.
                    }
                    !poller.cgroups_seen || seen.held != held(snapshots.borrow().as_deref())
                }
            };
            if due {
                break;
            }
        }
        sleep_until(asked + poller.config.interval).await;
    }
}

/// What the latest poller saw; where it differs another is due.
#[derive(Debug)]
struct Seen {
    held: Vec<GroupId>,
    kubelet: Option<KubeletSocket>,
    checkpoint: Option<CheckpointId>,
}

impl Seen {
    fn of(snapshot: Option<&NodeSnapshot>, folder: &PluginDirState, config: &Config) -> Self {
        Self { held: held(snapshot), kubelet: folder.kubelet, checkpoint: stamp(config) }
    }

    fn folder_differs(&self, folder: &PluginDirState, config: &Config) -> bool {
        self.kubelet != folder.kubelet || self.checkpoint != stamp(config)
    }
}

fn held(snapshot: Option<&NodeSnapshot>) -> Vec<GroupId> {
    let devices = snapshot.map(|snapshot| snapshot.devices.as_slice()).unwrap_or_default();
    let groups = devices.iter().filter_map(|view| view.group.as_ref());
    let mut held: Vec<GroupId> =
        groups.filter(|group| group.occupancy.is_held()).map(|group| group.id).collect();
    held.dedup();
    held
}

/// Which checkpoint: the kubelet writes a new file each time and renames it into place (`FileStore.Write`).
type CheckpointId = (u64, SystemTime);

fn stamp(config: &Config) -> Option<CheckpointId> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(config.kubelet_dir.join(kubelet_api::CHECKPOINT)).ok()?;
    Some((metadata.ino(), metadata.modified().ok()?))
}

/// What poller needs, from one time to the next.
struct Poller {
    owners: AssignmentsHandle,
    config: Config,
    /// Something was asked before.
    begun: bool,
    /// The latest answer was whole, and needs no other soon.
    content: bool,
    /// How long to wait before a kubelet that did not answer is asked again; doubles.
    backoff: Duration,
    /// Holders' cgroups made owners, as they do after our own start only.
    cgroups_seen: bool,
    troubled: Option<String>,
    /// Which checkpoint there was.
    stamp: Option<CheckpointId>,
    /// The kubelet's socket, since when it has been seen, and how old it was then.
    kubelet: Option<(KubeletSocket, Instant, Duration)>,
}

impl Poller {
    fn new(owners: AssignmentsHandle, config: Config) -> Self {
        Self {
            owners,
            begun: false,
            content: false,
            backoff: config.interval,
            cgroups_seen: false,
            troubled: None,
            stamp: None,
            kubelet: None,
            config,
        }
    }

    /// Lists pods for the first time; the checkpoint is looked into meanwhile if that takes long.
    async fn first(
        &mut self,
        lister: &mut Lister,
        kubelet: Option<KubeletSocket>,
    ) -> Result<Vec<ListedPod>, String> {
        self.begun = true;
        let mut listing = pin!(lister.list());
        tokio::select! {
            pods = &mut listing => return pods,
            () = sleep(FIRST) => {}
        }
        if let Some(checkpoint) = checkpoint::read(&self.config.kubelet_dir) {
            self.give_to_ledger(None, (Some(&checkpoint), false), None, kubelet);
        }
        listing.await
    }

    /// Takes in an answer; how long to wait at most until the next poller.
    fn take(
        &mut self,
        pods: Result<Vec<ListedPod>, String>,
        snapshot: Option<&NodeSnapshot>,
        kubelet: Option<KubeletSocket>,
    ) -> Duration {
        // After the list, so that the checkpoint has whoever was admitted meanwhile.
        let stamp = stamp(&self.config);
        let written = stamp.is_some() && stamp != self.stamp;
        self.stamp = stamp;
        let checkpoint = checkpoint::read(&self.config.kubelet_dir);
        let outcome =
            self.give_to_ledger(pods.as_deref().ok(), (checkpoint.as_deref(), written), snapshot, kubelet);
        if outcome.checkpoint_is_stale {
            self.owners.shared.stale.notify_one();
        }
        let pause = match &pods {
            Ok(_) if outcome.poll_again => self.config.interval,
            Ok(_) => self.config.assignments_interval,
            Err(_) => self.backoff.min(self.config.assignments_interval),
        };
        self.backoff = if pods.is_ok() { self.config.interval } else { pause * 2 };
        // A kubelet that is not there is not asked for ever: its socket's appearing is seen.
        self.content = !outcome.poll_again && (pods.is_ok() || kubelet.is_none());
        self.complain(pods.err(), outcome.answered);
        pause
    }

    fn give_to_ledger(
        &mut self,
        pods: Option<&[ListedPod]>,
        (checkpoint, written): (Option<&[CheckpointEntry]>, bool),
        snapshot: Option<&NodeSnapshot>,
        kubelet: Option<KubeletSocket>,
    ) -> LedgerUpdate {
        let age = self.age(kubelet);
        let offered = snapshot.map(offered);
        let holders = snapshot.map(holders).unwrap_or_default();
        let round = Observation {
            now: std::time::Instant::now(),
            pods,
            checkpoint,
            checkpoint_is_new: written,
            kubelet,
            kubelet_is_starting: age.is_some_and(|age| age < self.config.kubelet_start),
            settling: self.config.settling,
            holders: &holders,
            adopt_holders: !self.cgroups_seen,
            offered: offered.as_ref(),
        };
        let owners = self.owners.clone();
        let mut ledger = owners.ledger();
        let outcome = ledger.observe(&round);
        self.cgroups_seen |= snapshot.is_some() && outcome.answered;
        tracing::debug!(?pods, ?checkpoint, young = round.kubelet_is_starting, given = ?ledger.assignments(), "asked");
        owners.publish(Assignments::new(outcome.answered, &ledger));
        owners.remember(&ledger);
        outcome
    }

    /// How long the kubelet's socket has been there: by our own clock, but for one that was there before us.
    fn age(&mut self, kubelet: Option<KubeletSocket>) -> Option<Duration> {
        let kubelet = kubelet?;
        let first = self.kubelet.is_none();
        let (since, before) = match self.kubelet {
            Some((known, since, before)) if known == kubelet => (since, before),
            _ => (
                Instant::now(),
                if first { crate::kubelet::socket_watch::age(&kubelet) } else { Duration::ZERO },
            ),
        };
        self.kubelet = Some((kubelet, since, before));
        Some(before + since.elapsed())
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

fn offered(snapshot: &NodeSnapshot) -> BTreeSet<Arc<str>> {
    let views = snapshot.devices.iter().chain(&snapshot.unbound);
    views.map(|view| Arc::clone(&view.resource)).collect()
}

/// Held devices with the pod of their holder's cgroup.
fn holders(snapshot: &NodeSnapshot) -> Vec<PodHolds> {
    let mut found: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for view in &snapshot.devices {
        let holders = view.group.as_ref().map(|group| group.holders.as_slice()).unwrap_or_default();
        for uid in holders.iter().filter_map(|holder| holder.container.pod_uid) {
            let ids = found.entry((view.resource.to_string(), uid.to_string())).or_default();
            ids.insert(view.device.id.to_string());
        }
    }
    found.into_iter().map(|((resource, pod_uid), ids)| PodHolds { pod_uid, resource, ids }).collect()
}
