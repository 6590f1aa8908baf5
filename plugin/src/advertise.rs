//! From snapshots to what the kubelet is told: each resource's list, and a log line for each change of health.

use crate::health::{Busy, Health, decide};
use crate::service::List;
use crate::snapshot::{DeviceReport, DeviceView, Snapshot};
use kubelet_api::v1beta1::{Device, NumaNode, TopologyInfo};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use vfio_probe::DeviceId;

/// What the kubelet has been told.
#[derive(Debug)]
pub(crate) struct Board {
    busy: Busy,
    told: Mutex<BTreeMap<DeviceId, Health>>,
}

impl Board {
    /// Nothing told yet.
    pub(crate) fn new(busy: Busy) -> Self {
        Self { busy, told: Mutex::default() }
    }

    /// The policy.
    pub(crate) fn busy(&self) -> Busy {
        self.busy
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Health>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on every device and makes each resource's list; also when to decide again though nothing changes.
    pub(crate) fn lists(
        &self,
        snapshot: &Snapshot,
        now: Instant,
    ) -> (BTreeMap<Arc<str>, List>, Option<Instant>) {
        let mut told = self.told();
        let mut lists: BTreeMap<Arc<str>, Vec<Device>> = BTreeMap::new();
        let mut again: Option<Instant> = None;
        let mut now_told = BTreeMap::new();
        for view in &snapshot.devices {
            let id = view.device.id;
            let before = told.get(&id);
            let (health, when) = decide(self.busy, view, snapshot.vfio_visible, before, now);
            again = again.into_iter().chain(when).min();
            if before != Some(&health) {
                log(view, before, &health);
            }
            lists.entry(Arc::clone(&view.resource)).or_default().push(listed(view, &health));
            now_told.insert(id, health);
        }
        for (id, _) in told.iter().filter(|(id, _)| !now_told.contains_key(id)) {
            tracing::info!(device = %id, "no longer bound, dropped from the list");
        }
        *told = now_told;
        (lists.into_iter().map(|(resource, list)| (resource, Arc::new(list))).collect(), again)
    }

    /// All devices as `list` prints them.
    pub(crate) fn reports(&self, snapshot: &Snapshot) -> Vec<DeviceReport> {
        let told = self.told();
        snapshot.devices.iter().map(|view| DeviceReport::new(view, told.get(&view.device.id))).collect()
    }
}

fn listed(view: &DeviceView, health: &Health) -> Device {
    // -1 is unknown, not node 0: without a hint the topology manager may choose freely.
    let topology =
        view.device.numa_node.map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] });
    Device { id: view.device.id.to_string(), health: health.as_str().to_owned(), topology }
}

fn log(view: &DeviceView, before: Option<&Health>, health: &Health) {
    let device = view.device.id;
    let group = view.device.group.map(|group| group.0);
    let holder = view.group.as_ref().and_then(|group| group.holders.first()).map(|holder| holder.pid);
    let (old, new) = (before.map_or("new", Health::as_str), health.as_str());
    match health.reason() {
        Some(reason) => {
            tracing::warn!(%device, group, resource = %view.resource, old, new, reason, holder, "health");
        }
        // The usual case at the start, of which the resource tells the number.
        None if before.is_none() => {
            tracing::debug!(%device, group, resource = %view.resource, old, new, "health");
        }
        None => tracing::info!(%device, group, resource = %view.resource, old, new, "health"),
    }
}
