//! Turns decisions into the lists of the resources, into log events, and into the state file `health.json`.

use crate::config::Config;
use crate::kubelet::list_and_watch::DeviceList;
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
use vfio_plugin_policy::health::tracker::{DeviceDecision, Facts, HealthTracker, Policy};
use vfio_plugin_policy::health::{Decision, Health};
use vfio_plugin_policy::pools::terms::Busy;
use vfio_probe::{DeviceId, GroupId, Root};

/// The state file in the run directory.
const FILE: &str = "health.json";

/// Decides what is reported to the kubelet. The tasks that report share it.
#[derive(Debug)]
pub(crate) struct HealthPublisher {
    policy: Policy,
    root: Arc<Root>,
    state: Mutex<State>,
    /// Wakes the publishing task: a list may differ though neither the snapshot nor the assignments have changed.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
struct State {
    tracker: HealthTracker,
    file: StateFile,
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
    /// The list of each resource that has devices.
    pub(crate) lists: BTreeMap<Arc<str>, DeviceList>,
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
    pub(crate) fn new(config: &Config, root: Arc<Root>, carried_over: CarriedOver) -> Self {
        let CarriedOver { file, reasons } = carried_over;
        let state = Mutex::new(State { tracker: HealthTracker::new(reasons), file });
        let policy =
            Policy { busy: config.busy, settling: config.settling, check_node: config.checks().node };
        Self { policy, root, state, changed: Notify::new() }
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
        self.state.lock().tracker.refused(group, reports_seen, Instant::now());
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

    /// Decides on every device, logs what has changed, and writes the state file. Reads sysfs only for devices that are not in
    /// the snapshot and matter all the same.
    pub(crate) fn decide(
        &self,
        snapshot: &NodeSnapshot,
        assignments: &Assignments,
        now: Instant,
    ) -> Published {
        let snapshot = &*with_special_nodes(&self.root, snapshot, assignments.name_special_nodes());
        let mut guard = self.state.lock();
        let State { tracker, file } = &mut *guard;
        let gone = tracker.unlisted(snapshot).filter(|id| !self.root.has(*id)).collect();
        let pass = tracker.decide(self.policy, Facts { snapshot, assignments, gone: &gone, now });
        let mut lists: BTreeMap<Arc<str>, Vec<Device>> = BTreeMap::new();
        for decision in &pass.devices {
            log_change(decision);
            let list = lists.entry(Arc::clone(&decision.device.resource)).or_default();
            let device = listed(decision.device, &decision.after.health);
            let place = list.partition_point(|other| other.id < device.id);
            list.insert(place, device);
        }
        for device in &pass.dropped {
            tracing::info!(%device, "dropped a device that is no longer bound");
        }
        let decide_again = pass.decide_again;
        file.write_versioned(stored::VERSION, &HealthContent(tracker));
        let lists = lists.into_iter().map(|(resource, list)| (resource, Arc::new(list))).collect();
        Published { lists, decide_again }
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

/// Returns a device as the kubelet's API has it.
fn listed(device: &DeviceState, health: &Health) -> Device {
    // -1 is unknown, not node 0. Without a topology, the kubelet's topology manager may choose freely.
    let topology =
        device.device.numa_node.map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] });
    Device { id: device.device.id.to_string(), health: health.as_str().to_owned(), topology }
}

/// Logs a change of health or of the warning. `old` and `new` are the healths (`new` for a new device), `reason` is the stable
/// code, `detail` the text for people.
fn log_change(decision: &DeviceDecision<'_>) {
    let DeviceDecision { device, before, after } = decision;
    let (resource, group) = (&device.resource, device.device.group.map(|group| group.0));
    let device = device.device.id;
    let known = before.as_ref().map(|before| &before.health);
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
        && is_news(before.as_ref().and_then(|before| before.warning.as_deref()), warning)
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
