//! From snapshots and owners to what the kubelet is told: each resource's list, and a log line for each change of health.

use crate::feed::List;
use crate::health::{Busy, Decision, Health};
use crate::memory::Memory;
use crate::owners::Ownership;
use crate::settings::Settings;
use crate::snapshot::{DeviceReport, DeviceView, Snapshot};
use crate::told::{Policy, Told};
use kubelet_api::v1beta1::{Device, NumaNode, TopologyInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;
use vfio_probe::{GroupId, Root};

/// What the kubelet has been told, shared by all that tell it something.
#[derive(Debug)]
pub(crate) struct Board {
    policy: Policy,
    root: Arc<Root>,
    told: Mutex<(Told, Memory)>,
    /// Something other than a snapshot or the owners makes lists differ.
    pub(crate) news: Notify,
}

/// What a round has decided.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// By resource.
    pub(crate) lists: BTreeMap<Arc<str>, List>,
    /// When to decide again though nothing changes.
    pub(crate) again: Option<Instant>,
}

impl Board {
    /// Nothing told yet, by this process; an earlier one has left these devices Unhealthy for these reasons.
    pub(crate) fn new(
        settings: &Settings,
        root: Arc<Root>,
        memory: Memory,
        before: BTreeMap<String, String>,
    ) -> Self {
        let told = Mutex::new((Told::new(before), memory));
        let policy = Policy { busy: settings.busy, settling: settings.settling, nodes: settings.checks.node };
        Self { policy, root, told, news: Notify::new() }
    }

    /// The policy where a device's pool does not say.
    pub(crate) fn busy(&self) -> Busy {
        self.policy.busy
    }

    /// The policy for a device.
    pub(crate) fn busy_of(&self, view: &DeviceView) -> Busy {
        view.terms.busy.unwrap_or(self.policy.busy)
    }

    fn told(&self) -> MutexGuard<'_, (Told, Memory)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Told::refused`].
    pub(crate) fn refused(&self, group: GroupId, heard: u64) {
        self.told().0.refused(group, heard, Instant::now());
        self.news.notify_one();
    }

    /// As [`Told::contested`].
    pub(crate) fn contested(&self) -> BTreeSet<GroupId> {
        self.told().0.contested().collect()
    }

    /// Decides on every device and makes each resource's list.
    pub(crate) fn lists(&self, snapshot: &Snapshot, owners: &Ownership, now: Instant) -> Lists {
        let mut guard = self.told();
        let (told, memory) = &mut *guard;
        let mut lists: BTreeMap<Arc<str>, Vec<Device>> = BTreeMap::new();
        let exists = |id| self.root.has(id);
        let round = told.decide(self.policy, (snapshot, owners, now), &exists, &mut |view, before, now| {
            log(view, before, now);
            let list = lists.entry(Arc::clone(&view.resource)).or_default();
            let device = listed(view, &now.health);
            let place = list.partition_point(|other| other.id < device.id);
            list.insert(place, device);
        });
        for id in round.dropped {
            tracing::info!(device = %id, "no longer bound, dropped from the list");
        }
        memory.write(&told.unhealthy());
        let lists = lists.into_iter().map(|(resource, list)| (resource, Arc::new(list))).collect();
        Lists { lists, again: round.again }
    }

    /// All devices as `list` prints them.
    pub(crate) fn reports(&self, snapshot: &Snapshot, owners: &Ownership) -> Vec<DeviceReport> {
        let guard = self.told();
        let told = &guard.0;
        let views = snapshot.devices.iter().chain(told.unbound(snapshot));
        let report = |view: &DeviceView| {
            DeviceReport::new(view, told.of(view.device.id), owners.owner(view).map(|given| &given.pod))
        };
        views.map(report).collect()
    }
}

fn listed(view: &DeviceView, health: &Health) -> Device {
    // -1 is unknown, not node 0: without a hint the topology manager may choose freely.
    let topology =
        view.device.numa_node.map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] });
    Device { id: view.device.id.to_string(), health: health.as_str().to_owned(), topology }
}

fn log(view: &DeviceView, before: Option<&Decision>, decision: &Decision) {
    let device = view.device.id;
    let group = view.device.group.map(|group| group.0);
    let holder = view.group.as_ref().and_then(|group| group.holders.first()).map(|holder| holder.pid);
    let health = &decision.health;
    let resource = &view.resource;
    if before.map(|before| &before.health) != Some(health) {
        let (old, new) = (before.map_or("new", |before| before.health.as_str()), health.as_str());
        match health.reason() {
            Some(reason) => tracing::warn!(%device, group, %resource, old, new, reason, holder, "health"),
            // The usual case at the start, of which the resource tells the number.
            None if before.is_none() => tracing::debug!(%device, group, %resource, old, new, "health"),
            None => tracing::info!(%device, group, %resource, old, new, "health"),
        }
    }
    if let Some(warning) = &decision.warning
        && before.and_then(|before| before.warning.as_ref()) != Some(warning)
    {
        tracing::warn!(%device, group, %resource, warning, "a pod's device; it stays Healthy until the pod ends");
    }
}
