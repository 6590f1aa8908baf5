//! The plugin's own decisions, the very functions that it runs, taken one at a time.

use super::{Rule, id, uid};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::{ProbeVerdict, preferred};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;
use vfio_plugin_policy::assignments::ledger::Ledger;
use vfio_plugin_policy::assignments::observation::{CheckpointEntry, ListedPod, Observation};
use vfio_plugin_policy::assignments::record::Assignment;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::health::tracker::{Facts, HealthTracker, Policy};
use vfio_plugin_policy::pools::terms::Busy;
use vfio_plugin_policy::testing::device_state;
use vfio_probe::{Occupancy, Viability};

pub(super) const RESOURCE: &str = "nvidia.com/GPU";
const SETTLING: Duration = Duration::from_secs(3);

/// A device as the kernel shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) device: u8,
    pub(super) group: u32,
    pub(super) bound: bool,
    /// This device is open.
    pub(super) open: bool,
    /// A device of its group is open.
    pub(super) held: bool,
}

/// All that the plugin knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Plugin {
    ledger: Ledger,
    /// The kubelet has told who owns what.
    answered: bool,
    told: HealthTracker,
    snapshot: Option<NodeSnapshot>,
    /// The list that its stream has carried last: Healthy or not.
    sent: Option<BTreeMap<String, bool>>,
    /// To be sent again though nothing has changed.
    again: bool,
}

/// How an Allocate ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Granted {
    Yes,
    No,
    /// And the list that says why has to go out before.
    NoAndTold,
}

impl Plugin {
    fn owners(&self) -> Assignments {
        Assignments::new(self.answered, &self.ledger)
    }

    /// SIGKILL and a new start, with what it has remembered, or without.
    pub(super) fn restart(&mut self, remembers: bool, now: Instant) {
        let old = std::mem::take(self);
        if remembers {
            let text = serde_json::to_vec(&old.ledger).unwrap();
            self.ledger = serde_json::from_slice(&text).unwrap();
            self.ledger.restarted(now);
            self.told =
                HealthTracker::new(old.told.reasons().map(|(id, reason)| (id, reason.clone())).collect());
        }
    }

    /// Whether the device was bound when it last looked.
    pub(super) fn saw_bound(&self, device: u8) -> bool {
        let devices = self.snapshot.iter().flat_map(|snapshot| &snapshot.devices);
        devices.filter(|view| !view.unbinding).any(|view| view.device.id.to_string() == id(device))
    }

    /// Whether the kubelet has told it that the pod has the device.
    pub(super) fn knows(&self, pod: u8, device: u8) -> bool {
        let known = listed(pod, Some(device));
        let name = |given: &Assignment| given.pod.full_name.as_ref() == Some(&known.full_name);
        self.ledger.assignments().iter().any(|given| name(given) && given.device_ids.contains(&id(device)))
    }

    /// The kubelet that followed its list is gone.
    pub(super) fn lose_stream(&mut self) {
        self.sent = None;
    }

    /// The monitor looks at the node.
    pub(super) fn look(&mut self, devices: &[Seen], now: Instant) {
        let before = self.snapshot.take().unwrap_or_default();
        let owners = self.owners();
        let mut snapshot = NodeSnapshot { vfio_visible: true, ..NodeSnapshot::default() };
        for seen in devices {
            let occupancy = if seen.held { Occupancy::Held } else { Occupancy::Free };
            let unbinding = !seen.bound && seen.open;
            let mut view =
                device_state(&id(seen.device), seen.group, occupancy, now, Viability::Viable, unbinding);
            let known = before.get(view.device.id).and_then(|known| known.group.as_ref());
            if let (Some(group), Some(known)) = (&mut view.group, known)
                && known.occupancy == occupancy
            {
                group.since = known.since;
            }
            if seen.bound || unbinding {
                snapshot.devices.push(view);
            } else if owners.assignment(&view).is_some() {
                snapshot.unbound.push(DeviceState {
                    unbinding: false,
                    stale_enable: false,
                    group: None,
                    ..view
                });
            }
        }
        self.snapshot = Some(snapshot);
    }

    /// It asks the kubelet who owns what.
    pub(super) fn ask(
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
            kubelet_is_starting: young && rule != Rule::ListsCountAtOnce,
            settling: SETTLING,
            ..Observation::at(now + Duration::from_millis(1))
        });
        self.answered = outcome.answered;
        self.again |= outcome.checkpoint_is_stale && rule != Rule::NeverSentAgain;
    }

    /// It decides, and sends a list if that is another than before.
    ///
    /// The first one waits for the kubelet's answer, which here always comes in time.
    pub(super) fn tell(&mut self, busy: Busy, now: Instant) -> Option<BTreeMap<String, bool>> {
        let snapshot = self.snapshot.clone().filter(|_| self.answered)?;
        let owners = self.owners();
        let mut list = BTreeMap::new();
        let policy = Policy { busy, settling: SETTLING, check_node: true };
        let facts = Facts { snapshot: &snapshot, assignments: &owners, gone: &BTreeSet::new(), now };
        for decision in self.told.decide(policy, facts).devices {
            list.insert(decision.device.device.id.to_string(), decision.after.health.reason().is_none());
        }
        let again = std::mem::take(&mut self.again);
        if self.sent.as_ref() == Some(&list) && !again {
            return None;
        }
        self.sent = Some(list.clone());
        Some(list)
    }

    /// Which of the devices the kubelet had best give.
    pub(super) fn prefer(&self, available: &[String]) -> Option<String> {
        let snapshot = self.snapshot.clone().unwrap_or_default();
        preferred::choose(&snapshot, &self.owners(), available, &[], 1).pop()
    }

    /// The kubelet wants to give a device to a pod; `open` is what an open of its group would answer now.
    pub(super) fn allocate(
        &mut self,
        rule: Rule,
        device: &str,
        open: Occupancy,
        checkpoint: &[CheckpointEntry],
        now: Instant,
    ) -> Granted {
        let owners = self.owners();
        let snapshot = self.snapshot.clone().unwrap_or_default();
        let request = [device.to_owned()];
        let Ok(plan) = allocation::plan(RESOURCE, [request.as_slice()], &snapshot, &owners) else {
            return Granted::No;
        };
        let Some((group, view)) =
            plan.containers.first().and_then(|container| container.groups().first().copied())
        else {
            return Granted::No;
        };
        let looks_held = view.is_held();
        let given_before = rule == Rule::GrantedAgain && owners.counts_as_requested(view);
        match allocation::judge(open, || looks_held, open == Occupancy::Absent) {
            ProbeVerdict::Grant => {}
            ProbeVerdict::Held if given_before => {}
            ProbeVerdict::Held => {
                let marked = !allocation::lost_by_the_kubelet(RESOURCE, view, &owners, Some(checkpoint));
                if marked {
                    self.ledger.age(now);
                    self.told.refused(group, 0, now);
                }
                for view in self.snapshot.iter_mut().flat_map(|snapshot| &mut snapshot.devices) {
                    if let Some(known) = view.group.as_mut().filter(|known| known.id == group)
                        && !known.occupancy.is_held()
                    {
                        (known.occupancy, known.since) = (Occupancy::Held, now);
                    }
                }
                return if marked { Granted::NoAndTold } else { Granted::No };
            }
            ProbeVerdict::Absent => return Granted::No,
        }
        let ids = BTreeSet::from([device.to_owned()]);
        self.ledger.record_allocate(RESOURCE, ids.clone(), ids, Default::default(), now);
        Granted::Yes
    }

    /// More than the settling time passes: whatever happened did so before `then`.
    pub(super) fn age(&mut self, then: Instant) {
        self.ledger.age(then);
        self.told.age(then);
        let views = self.snapshot.iter_mut().flat_map(|snapshot| &mut snapshot.devices);
        for group in views.filter_map(|view| view.group.as_mut()) {
            group.since = group.since.min(then);
        }
    }
}

/// What the kubelet's checkpoint says of a pod.
pub(super) fn entry(pod: u8, device: u8) -> CheckpointEntry {
    let ids = BTreeSet::from([id(device)]);
    let (container, resource) = ("compute".to_owned(), RESOURCE.to_owned());
    CheckpointEntry { pod_uid: uid(pod), container, resource, response_ids: ids.clone(), ids }
}

/// What pod resources say of one, with the device that the kubelet knows it has.
pub(super) fn listed(pod: u8, device: Option<u8>) -> ListedPod {
    let key = ("compute".to_owned(), RESOURCE.to_owned());
    let devices = device.map(|device| (key, BTreeSet::from([id(device)])));
    ListedPod { full_name: format!("default/vm-{pod}"), devices: devices.into_iter().collect() }
}

/// The pod that every node has, and that has no device.
pub(super) fn other_pod() -> ListedPod {
    ListedPod { full_name: "kube-system/other".to_owned(), devices: BTreeMap::new() }
}
