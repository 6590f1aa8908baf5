//! From snapshots and owners to what the kubelet is told: each resource's list, and a log line for each change of health.

use crate::config::Config;
use crate::kubelet::list_and_watch::DeviceList;
use crate::state_file::StateFile;
use kubelet_api::v1beta1::{Device, NumaNode, TopologyInfo};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::record::Assignment;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::health::tracker::{HealthTracker, Policy};
use vfio_plugin_policy::health::{Decision, Health};
use vfio_plugin_policy::pools::terms::Busy;
use vfio_probe::{GroupId, Root};

/// What the kubelet has been told, shared by all that tell it something.
#[derive(Debug)]
pub(crate) struct HealthPublisher {
    policy: Policy,
    root: Arc<Root>,
    told: Mutex<(HealthTracker, StateFile)>,
    /// Something other than a snapshot or the owners makes lists differ.
    pub(crate) changed: Notify,
}

/// What a round has decided.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// By resource.
    pub(crate) lists: BTreeMap<Arc<str>, DeviceList>,
    /// When to decide again though nothing changes.
    pub(crate) again: Option<Instant>,
}

impl HealthPublisher {
    /// Nothing told yet, by this process; an earlier one has left these devices Unhealthy for these reasons.
    pub(crate) fn new(
        config: &Config,
        root: Arc<Root>,
        state_file: StateFile,
        before: BTreeMap<String, String>,
    ) -> Self {
        let told = Mutex::new((HealthTracker::new(before), state_file));
        let policy = Policy { busy: config.busy, settling: config.settling, nodes: config.checks().node };
        Self { policy, root, told, changed: Notify::new() }
    }

    /// The policy where a device's pool does not say.
    pub(crate) fn busy(&self) -> Busy {
        self.policy.busy
    }

    /// The policy for a device.
    pub(crate) fn busy_of(&self, view: &DeviceState) -> Busy {
        view.terms.busy.unwrap_or(self.policy.busy)
    }

    fn told(&self) -> MutexGuard<'_, (HealthTracker, StateFile)> {
        self.told.lock()
    }

    /// As [`HealthTracker::refused`].
    pub(crate) fn refused(&self, group: GroupId, reports_seen: u64) {
        self.told().0.refused(group, reports_seen, Instant::now());
        self.changed.notify_one();
    }

    /// As [`HealthTracker::contested`].
    pub(crate) fn contested(&self) -> BTreeSet<GroupId> {
        self.told().0.contested().collect()
    }

    /// Decides on every device and makes each resource's list.
    pub(crate) fn lists(&self, snapshot: &NodeSnapshot, owners: &Assignments, now: Instant) -> Published {
        let mut guard = self.told();
        let (told, state_file) = &mut *guard;
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
        state_file.write(&told.unhealthy());
        let lists = lists.into_iter().map(|(resource, list)| (resource, Arc::new(list))).collect();
        Published { lists, again: round.again }
    }

    /// Calls `visit` for each device, with what was reported about it and its assignment.
    pub(crate) fn visit(
        &self,
        snapshot: &NodeSnapshot,
        owners: &Assignments,
        mut visit: impl FnMut(&DeviceState, Option<&Decision>, Option<&Assignment>),
    ) {
        let guard = self.told();
        let told = &guard.0;
        for view in snapshot.devices.iter().chain(told.unbound(snapshot)) {
            visit(view, told.of(view.device.id), owners.assignment(view));
        }
    }
}

fn listed(view: &DeviceState, health: &Health) -> Device {
    // -1 is unknown, not node 0: without a hint the topology manager may choose freely.
    let topology =
        view.device.numa_node.map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] });
    Device { id: view.device.id.to_string(), health: health.as_str().to_owned(), topology }
}

fn log(view: &DeviceState, before: Option<&Decision>, decision: &Decision) {
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
