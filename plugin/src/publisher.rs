//! Turns decisions into the lists of the resources, into log events, and into the state file `health.json`.

use crate::assignments::Changes;
use crate::config::Config;
use crate::kubelet::list_and_watch::DeviceList;
use crate::metrics::MetricsHandle;
use crate::metrics::passes::FinishedPass;
use crate::node::special_nodes::with_special_nodes;
use crate::run_dir::RunDir;
use crate::state_file::StateFile;
use kubelet_api::v1beta1::{Device, NumaNode, TopologyInfo};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::record::Assignment;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::health::reason::Reason;
use vfio_plugin_policy::health::stored::{self, HealthContent, StoredHealth};
use vfio_plugin_policy::health::tracker::{Change, Facts, HealthTracker, Policy};
use vfio_plugin_policy::health::{Decision, Health};
use vfio_plugin_policy::metrics::Reported;
use vfio_plugin_policy::pools::terms::{Busy, OfferBy};
use vfio_probe::{DeviceId, GroupId, Root};

/// The state file in the run directory.
const FILE: &str = "health.json";

/// Decides what is reported to the kubelet. The tasks that report share it.
#[derive(Debug)]
pub(crate) struct HealthPublisher {
    policy: Policy,
    root: Root,
    state: Mutex<State>,
    metrics: MetricsHandle,
    /// Wakes the publishing task: a list may differ though neither the snapshot nor the assignments have changed.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
struct State {
    tracker: HealthTracker,
    file: StateFile,
    /// The snapshot of the latest pass. None if the next pass has to decide on all devices.
    decided: Option<Arc<NodeSnapshot>>,
    decide_again: Option<Instant>,
    /// What the latest lists contain.
    listed: Vec<Listed>,
}

/// What of a device is in its resource's list.
#[derive(PartialEq, Eq, Debug)]
struct Listed {
    id: DeviceId,
    resource: Arc<str>,
    numa_node: Option<u16>,
    is_healthy: bool,
}

impl Listed {
    fn new(device: &DeviceState, decision: &Decision) -> Self {
        Self {
            id: device.device.id,
            resource: Arc::clone(&device.resource),
            numa_node: device.device.numa_node,
            is_healthy: decision.health == Health::Healthy,
        }
    }
}

/// What the previous process of the plugin left in the state file, and the file.
#[derive(Debug)]
pub(crate) struct CarriedOver {
    file: StateFile,
    reasons: BTreeMap<DeviceId, Reason>,
}

/// The outcome of a pass.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The list of each resource that has devices. None if no list has changed.
    pub(crate) lists: Option<BTreeMap<Arc<str>, DeviceList>>,
    /// When to decide again even if nothing changes.
    pub(crate) decide_again: Option<Instant>,
}

impl CarriedOver {
    /// Reads the state file. A missing file carries nothing over, and neither does a file that is not understood, which is kept aside.
    pub(crate) fn read(run_dir: &RunDir) -> Self {
        let mut file = StateFile::new(run_dir, FILE);
        let stored: StoredHealth = file.read_once(stored::VERSION);
        Self { file, reasons: stored.into_reasons() }
    }

    /// Returns the devices that had fallen off the bus.
    pub(crate) fn lost(&self) -> impl Iterator<Item = DeviceId> {
        self.reasons.iter().filter(|(_, reason)| **reason == Reason::Lost).map(|(id, _)| *id)
    }
}

impl HealthPublisher {
    /// Creates a publisher that has reported nothing, and continues with the reasons of the previous process.
    pub(crate) fn new(
        config: &Config,
        root: Root,
        carried_over: CarriedOver,
        metrics: MetricsHandle,
    ) -> Self {
        let CarriedOver { file, reasons } = carried_over;
        let tracker = HealthTracker::new(reasons);
        let state = State { tracker, file, decided: None, decide_again: None, listed: Vec::new() };
        let state = Mutex::new(state);
        let policy =
            Policy { busy: config.busy, settling: config.settling, check_node: config.checks().node };
        Self { policy, root, state, metrics, changed: Notify::new() }
    }

    /// Returns the policy for held devices whose pool has none.
    pub(crate) fn busy(&self) -> Busy {
        self.policy.busy
    }

    /// Returns the policy for a device, if it is held.
    pub(crate) fn busy_of(&self, device: &DeviceState) -> Busy {
        device.terms.busy.unwrap_or(self.policy.busy)
    }

    /// Records a refusal, see [`HealthTracker::refused`], and wakes the publishing task.
    pub(crate) fn refused(&self, group: GroupId, reports_seen: u64) {
        let mut state = self.state.lock();
        state.tracker.refused(group, reports_seen, Instant::now());
        state.decided = None;
        drop(state);
        self.changed.notify_one();
    }

    /// Returns the groups of [`HealthTracker::contested`].
    pub(crate) fn contested(&self) -> BTreeSet<GroupId> {
        self.state.lock().tracker.contested().collect()
    }

    /// Returns why no pod may be allocated a device now: [`HealthTracker::stale_answer_of_another_pod`].
    pub(crate) fn stale_answer_of_another_pod(&self, device: DeviceId) -> Option<Reason> {
        self.state.lock().tracker.stale_answer_of_another_pod(device).cloned()
    }

    /// Decides, logs what has changed, and writes the state file. Reads sysfs only for devices that are not in the snapshot and
    /// matter all the same.
    ///
    /// If only assignments of single devices have changed since the pass before, it decides on these devices alone.
    pub(crate) fn decide(
        &self,
        snapshot: &Arc<NodeSnapshot>,
        assignments: &Arc<Assignments>,
        changes: &Changes,
        now: Instant,
    ) -> Published {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let is_decided = state.decided.as_ref().is_some_and(|decided| Arc::ptr_eq(decided, snapshot));
        let is_due = state.decide_again.is_some_and(|at| now >= at);
        let of_devices = match changes {
            Changes::Devices(ids) if is_decided && !is_due => {
                let facts = Facts { snapshot, assignments, gone: &BTreeSet::new(), now };
                state.tracker.decide_assigned(self.policy, &facts, ids)
            }
            _ => None,
        };
        let is_of_all = of_devices.is_none();
        let pass = of_devices.unwrap_or_else(|| {
            let gone = state.tracker.unlisted(snapshot).filter(|id| !self.root.has(*id)).collect();
            state.decide_again = None;
            let snapshot = &*with_special_nodes(&self.root, snapshot, assignments.name_special_nodes());
            state.tracker.decide(self.policy, &Facts { snapshot, assignments, gone: &gone, now })
        });
        if !is_decided {
            state.decided = Some(Arc::clone(snapshot));
        }
        state.decide_again = state.decide_again.into_iter().chain(pass.decide_again).min();
        for Change { device, before } in &pass.changes {
            let unbound = || state.tracker.unbound(snapshot).find(|state| state.device.id == *device);
            let (device, after) = (snapshot.get(*device).or_else(unbound), state.tracker.decision(*device));
            if let (Some(device), Some(after)) = (device, after) {
                log_change(device, before.as_ref(), after);
                self.count_change(device, before.as_ref(), after);
            }
        }
        for device in &pass.dropped {
            tracing::info!(%device, "dropped a device that is no longer bound");
        }
        if pass.reasons_changed || !state.file.is_written() {
            state.file.write_versioned(stored::VERSION, &HealthContent(&state.tracker));
        }
        let may_differ = is_of_all || !pass.changes.is_empty();
        let lists = if may_differ { state.changed_lists(snapshot, assignments) } else { None };
        if let Some(metrics) = &self.metrics {
            let assigned = match changes {
                Changes::Devices(ids) if !is_of_all => Some(ids.as_slice()),
                _ => None,
            };
            let reported = may_differ.then(|| Reported::new(&state.tracker, snapshot));
            let contested = state.tracker.contested().collect();
            metrics.finished(FinishedPass { snapshot, assignments, contested, assigned, reported });
        }
        Published { lists, decide_again: state.decide_again }
    }

    /// Counts a change of a device's health. A device that was Healthy when it was discovered has not changed.
    fn count_change(&self, device: &DeviceState, before: Option<&Decision>, after: &Decision) {
        let was_healthy = before.is_none_or(|before| before.health == Health::Healthy);
        let is_healthy = after.health == Health::Healthy;
        if let Some(metrics) = self.metrics.as_ref().filter(|_| was_healthy != is_healthy) {
            metrics.counters.of(&device.resource).health_changed(after.health.reason());
        }
    }

    /// Calls `visit` for each device, with what was reported about it and its assignment.
    pub(crate) fn visit(
        &self,
        snapshot: &NodeSnapshot,
        assignments: &Assignments,
        mut visit: impl FnMut(&DeviceState, Option<&Decision>, Option<&Assignment>),
    ) {
        let state = self.state.lock();
        for device in snapshot.devices.iter().chain(state.tracker.unbound(snapshot)) {
            visit(device, state.tracker.decision(device.device.id), assignments.assignment(device));
        }
    }
}

impl State {
    /// Returns all lists if any differs from the latest ones.
    fn changed_lists(
        &mut self,
        snapshot: &NodeSnapshot,
        assignments: &Assignments,
    ) -> Option<BTreeMap<Arc<str>, DeviceList>> {
        // The DRA driver publishes the others.
        let is_listed =
            |(device, _): &(&DeviceState, &Decision)| assignments.offer_of(device) == OfferBy::DevicePlugin;
        let listed = || self.tracker.listed(snapshot).filter(is_listed);
        let mut known = self.listed.iter();
        let is_same = |(device, after)| known.next() == Some(&Listed::new(device, after));
        if !self.listed.is_empty() && listed().all(is_same) && known.next().is_none() {
            return None;
        }
        let mut lists: BTreeMap<Arc<str>, Vec<Device>> = BTreeMap::new();
        for (device, after) in listed() {
            let list = lists.entry(Arc::clone(&device.resource)).or_default();
            list.push(listed_device(device, &after.health));
        }
        self.listed = listed().map(|(device, after)| Listed::new(device, after)).collect();
        let in_order = |(resource, mut list): (Arc<str>, Vec<Device>)| {
            list.sort_unstable_by(|one, other| one.id.cmp(&other.id));
            (resource, Arc::new(list))
        };
        Some(lists.into_iter().map(in_order).collect())
    }
}

/// Returns a device as the kubelet's API has it.
fn listed_device(device: &DeviceState, health: &Health) -> Device {
    // -1 is unknown, not node 0. Without a topology, the kubelet's topology manager may choose freely.
    let topology =
        device.device.numa_node.map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] });
    Device { id: device.device.id.to_string(), health: health.as_str().to_owned(), topology }
}

/// Logs a change of health or of the warning. `old` and `new` are the healths (`new` for a new device), `reason` is the stable
/// code, `detail` the text for people.
fn log_change(device: &DeviceState, before: Option<&Decision>, after: &Decision) {
    let (resource, group) = (&device.resource, device.device.group.map(|group| group.0));
    let device = device.device.id;
    let known = before.map(|before| &before.health);
    let is_news =
        |known: Option<&Reason>, reason: &Reason| !known.is_some_and(|known| known.is_same_news(reason));
    let health_is_news = match (known, &after.health) {
        (Some(known), Health::Unhealthy(reason)) => is_news(known.reason(), reason),
        (known, health) => known != Some(health),
    };
    if health_is_news {
        let (old, new) = (known.map_or("new", Health::as_str), after.health.as_str());
        match (known, &after.health) {
            // The usual case at the start. The resource logs the number of its devices.
            (None, Health::Healthy) => {
                tracing::debug!(%device, group, %resource, old, new, "discovered a healthy device");
            }
            (Some(_), Health::Healthy) => {
                tracing::info!(%device, group, %resource, old, new, "device became healthy");
            }
            (known, Health::Unhealthy(reason)) => {
                let event = match known {
                    None => "discovered an unhealthy device",
                    Some(Health::Healthy) => "device became unhealthy",
                    Some(Health::Unhealthy(_)) => "device stayed unhealthy for another reason",
                };
                let holder_pid = reason.holders().first().map(|holder| holder.pid);
                let (reason, detail) = (reason.code(), reason.to_string());
                tracing::warn!(%device, group, %resource, old, new, reason, detail, holder_pid, "{event}");
            }
        }
    }
    if let Some(warning) = &after.warning
        && is_news(before.and_then(|before| before.warning.as_deref()), warning)
    {
        let (reason, detail) = (warning.code(), warning.to_string());
        tracing::warn!(%device, group, %resource, reason, detail,
            "assigned device has a fault and stayed healthy: its pod is still there");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems::Problems;

    #[test]
    fn health_file_that_is_not_understood_carries_nothing_over() {
        let run_dir = tempfile::tempdir().unwrap();
        let lost = || {
            CarriedOver::read(&RunDir::of_serve(run_dir.path(), &Problems::default()))
                .lost()
                .map(|id| id.to_string())
                .collect::<Vec<_>>()
        };
        assert!(lost().is_empty());
        let write = |text: &str| std::fs::write(run_dir.path().join(FILE), text).unwrap();
        let devices = r#""devices":{"0000:01:00.0":{"reason":{"code":"lost"}},"0000:02:00.0":{"reason":{"code":"gone"}}}"#;
        write(&format!(r#"{{"version":1,{devices}}}"#));
        assert_eq!(lost(), ["0000:01:00.0"]);
        for text in [format!(r#"{{"version":2,{devices}}}"#), format!("{{{devices}}}"), "{".to_owned()] {
            write(&text);
            assert!(lost().is_empty(), "{text}");
        }
    }
}
