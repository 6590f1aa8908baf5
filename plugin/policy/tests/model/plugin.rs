//! The plugin: its own decisions, the very functions that it runs, taken one at a time.

use super::{Rule, id, uid};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::request::Request;
use vfio_plugin_policy::allocation::{ProbeVerdict, preferred};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;
use vfio_plugin_policy::assignments::ledger::Ledger;
use vfio_plugin_policy::assignments::observation::{CheckpointEntry, ListedPod, Observation};
use vfio_plugin_policy::assignments::record::Assignment;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::health::stored::{HealthContent, StoredHealth};
use vfio_plugin_policy::health::tracker::{Facts, HealthTracker, Policy};
use vfio_plugin_policy::kubelet_id::KubeletDeviceId;
use vfio_plugin_policy::pools::terms::Busy;
use vfio_plugin_policy::testing::device_state;
use vfio_probe::{Occupancy, Viability};

pub(super) const RESOURCE: &str = "nvidia.com/GPU";
const SETTLING: Duration = Duration::from_secs(3);

/// A device as the kernel shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenDevice {
    pub(super) device: u8,
    pub(super) group: u32,
    pub(super) bound: bool,
    /// Whether this device is open.
    pub(super) open: bool,
    /// Whether a device of its group is open.
    pub(super) held: bool,
}

/// Everything that the plugin knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Plugin {
    ledger: Ledger,
    /// Whether the latest poll read the assignments.
    polled: bool,
    tracker: HealthTracker,
    snapshot: Option<NodeSnapshot>,
    /// The list that its stream carried last: whether each device is Healthy.
    sent: Option<BTreeMap<String, bool>>,
    /// Whether to send the list again even if it has not changed.
    resend: bool,
}

/// The result of an Allocate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AllocateResult {
    Granted,
    Refused,
    /// Refused, and the list in which the device is Unhealthy goes out before the response.
    RefusedAndReported,
}

impl Plugin {
    fn assignments(&self) -> Assignments {
        Assignments::new(self.polled, &self.ledger)
    }

    /// SIGKILL and a new start, with the state files or without.
    pub(super) fn restart(&mut self, with_state: bool, now: Instant) {
        let old = std::mem::take(self);
        if with_state {
            let text = serde_json::to_vec(&old.ledger).unwrap();
            self.ledger = serde_json::from_slice(&text).unwrap();
            self.ledger.restarted(now);
            let text = serde_json::to_vec(&HealthContent(&old.tracker)).unwrap();
            // A second restart before the first report carries nothing over here, which keeps the model small. The plugin
            // carries the file over; a test of the tracker covers that.
            let mut reasons = serde_json::from_slice::<StoredHealth>(&text).unwrap().into_reasons();
            reasons.retain(|id, _| old.tracker.decision(*id).is_some());
            self.tracker = HealthTracker::new(reasons);
        }
    }

    /// Returns whether the device was bound in the latest snapshot.
    pub(super) fn saw_bound(&self, device: u8) -> bool {
        let devices = self.snapshot.iter().flat_map(|snapshot| &snapshot.devices);
        devices.filter(|state| !state.unbinding).any(|state| state.device.id.to_string() == id(device))
    }

    /// Returns whether the kubelet has shown the plugin that the device is assigned to the pod.
    pub(super) fn knows(&self, pod: u8, device: u8) -> bool {
        let known = listed(pod, Some(device));
        let of_pod = |assignment: &Assignment| assignment.pod.full_name.as_ref() == Some(&known.full_name);
        let mut assignments = self.ledger.assignments().iter();
        assignments.any(|assignment| of_pod(assignment) && assignment.device_ids.contains(&id(device)))
    }

    /// The kubelet that followed the list is gone.
    pub(super) fn lose_stream(&mut self) {
        self.sent = None;
    }

    /// The monitor takes a snapshot of the node.
    pub(super) fn take_snapshot(&mut self, devices: &[SeenDevice], now: Instant) {
        let before = self.snapshot.take().unwrap_or_default();
        let assignments = self.assignments();
        let mut snapshot = NodeSnapshot { vfio_visible: true, ..NodeSnapshot::default() };
        for seen in devices {
            let occupancy = if seen.held { Occupancy::Held } else { Occupancy::Free };
            let unbinding = !seen.bound && seen.open;
            let mut state =
                device_state(&id(seen.device), seen.group, occupancy, now, Viability::Viable, unbinding);
            let known = before.get(state.device.id).and_then(|known| known.group.as_ref());
            if let (Some(group), Some(known)) = (&mut state.group, known)
                && known.occupancy == occupancy
            {
                group.since = known.since;
            }
            if seen.bound || unbinding {
                snapshot.devices.push(state);
            } else if assignments.assignment(&state).is_some() {
                snapshot.unbound.push(DeviceState {
                    unbinding: false,
                    stale_enable: false,
                    group: None,
                    ..state
                });
            }
        }
        self.snapshot = Some(snapshot);
    }

    /// Reads the assignments from what the kubelet shows: pod resources, the checkpoint, and whether the checkpoint was
    /// written since the latest poll. `young` is whether the kubelet has just started.
    pub(super) fn poll(
        &mut self,
        rule: Rule,
        (pods, checkpoint, written): (&[ListedPod], &[CheckpointEntry], bool),
        (kubelet, young): (u64, bool),
        now: Instant,
    ) {
        let outcome = self.ledger.observe(&Observation {
            pods: Some(pods),
            checkpoint: Some(checkpoint),
            checkpoint_is_new: written,
            kubelet: Some(KubeletSocket::new(0, kubelet, (0, 0))),
            kubelet_is_starting: young && rule != Rule::TrustYoungKubelet,
            settling: SETTLING,
            ..Observation::at(now + Duration::from_millis(1))
        });
        self.polled = outcome.answered;
        self.resend |= outcome.checkpoint_is_stale && rule != Rule::NeverResend;
    }

    /// Decides, and returns the list to send. None if it has not changed.
    ///
    /// The first list waits for the first poll, which always succeeds here.
    pub(super) fn report(&mut self, busy: Busy, now: Instant) -> Option<BTreeMap<String, bool>> {
        let snapshot = self.snapshot.clone().filter(|_| self.polled)?;
        let assignments = self.assignments();
        let policy = Policy { busy, settling: SETTLING, check_node: true };
        let gone = BTreeSet::new();
        let facts = Facts { snapshot: &snapshot, assignments: &assignments, gone: &gone, now };
        self.tracker.decide(policy, &facts);
        let listed = self.tracker.listed(&snapshot);
        let list: BTreeMap<String, bool> = listed
            .map(|(device, decision)| (device.device.id.to_string(), decision.health.reason().is_none()))
            .collect();
        let resend = std::mem::take(&mut self.resend);
        if self.sent.as_ref() == Some(&list) && !resend {
            return None;
        }
        self.sent = Some(list.clone());
        Some(list)
    }

    /// Returns the device that the kubelet should allocate.
    pub(super) fn prefer(&self, available: &[String]) -> Option<String> {
        let snapshot = self.snapshot.clone().unwrap_or_default();
        let available: Vec<KubeletDeviceId> = available.iter().map(|id| id.parse().unwrap()).collect();
        let chosen = preferred::choose(&snapshot, &self.assignments(), &available, &[], 1).pop();
        chosen.map(|id| id.to_string())
    }

    /// The kubelet allocates a device to a pod. `probed` is what a probe of its group finds now.
    pub(super) fn allocate(
        &mut self,
        rule: Rule,
        device: &str,
        probed: Occupancy,
        checkpoint: &[CheckpointEntry],
        now: Instant,
    ) -> AllocateResult {
        let assignments = self.assignments();
        let snapshot = self.snapshot.clone().unwrap_or_default();
        let request = Request { containers: vec![vec![device.parse().unwrap()]] };
        let Ok(plan) = allocation::plan(RESOURCE, &request, &snapshot, &assignments) else {
            return AllocateResult::Refused;
        };
        let Some((group, state)) =
            plan.containers.first().and_then(|container| container.groups().first().copied())
        else {
            return AllocateResult::Refused;
        };
        let looks_held = state.is_held();
        let allocated_before = rule == Rule::GrantAgain && assignments.counts_as_requested(state);
        match allocation::judge(probed, || looks_held, probed == Occupancy::Absent) {
            ProbeVerdict::Grant => {}
            ProbeVerdict::Held if allocated_before => {}
            ProbeVerdict::Held => {
                let reported =
                    !allocation::lost_by_the_kubelet(RESOURCE, state, &assignments, Some(checkpoint));
                if reported {
                    self.ledger.age(now);
                    self.tracker.refused(group, 0, now);
                }
                for state in self.snapshot.iter_mut().flat_map(|snapshot| &mut snapshot.devices) {
                    if let Some(known) = state.group.as_mut().filter(|known| known.id == group)
                        && !known.occupancy.is_held()
                    {
                        (known.occupancy, known.since) = (Occupancy::Held, now);
                    }
                }
                return if reported { AllocateResult::RefusedAndReported } else { AllocateResult::Refused };
            }
            ProbeVerdict::Absent => return AllocateResult::Refused,
        }
        let ids = BTreeSet::from([device.to_owned()]);
        self.ledger.record_allocate(RESOURCE, ids.clone(), ids, Default::default(), now);
        AllocateResult::Granted
    }

    /// More than the settling time passes: moves everything that happened to `then`.
    pub(super) fn age(&mut self, then: Instant) {
        self.ledger.age(then);
        self.tracker.age(then);
        let devices = self.snapshot.iter_mut().flat_map(|snapshot| &mut snapshot.devices);
        for group in devices.filter_map(|state| state.group.as_mut()) {
            group.since = group.since.min(then);
        }
    }
}

/// Returns the checkpoint's entry for a pod.
pub(super) fn entry(pod: u8, device: u8) -> CheckpointEntry {
    let ids = BTreeSet::from([id(device)]);
    let (container, resource) = ("compute".to_owned(), RESOURCE.to_owned());
    let response_ids = ids.clone();
    CheckpointEntry {
        pod_uid: uid(pod),
        container,
        resource,
        response_ids,
        ids,
        ..CheckpointEntry::default()
    }
}

/// Returns a pod as pod resources list it, with the device that the kubelet knows of.
pub(super) fn listed(pod: u8, device: Option<u8>) -> ListedPod {
    let key = ("compute".to_owned(), RESOURCE.to_owned());
    let devices = device.map(|device| (key, BTreeSet::from([id(device)])));
    ListedPod { full_name: format!("default/vm-{pod}"), devices: devices.into_iter().collect() }
}

/// Returns the pod that every node has, without a device.
pub(super) fn other_pod() -> ListedPod {
    ListedPod { full_name: "kube-system/other".to_owned(), devices: BTreeMap::new() }
}
