//! The driver: its own decisions, the very functions that it runs, and its record of claims.

use super::state::{Entry, Slices};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_plugin_policy::assignments::claims::{Claim, ClaimPod, ClaimedDevices};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::ledger::Ledger;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::dra::devices::{Features, Listed, entries};
use vfio_plugin_policy::dra::names::{DraDriver, device_id};
use vfio_plugin_policy::dra::taints::Withheld;
use vfio_plugin_policy::health::Health;
use vfio_plugin_policy::health::stored::{HealthContent, StoredHealth};
use vfio_plugin_policy::health::tracker::{Facts, HealthTracker, Policy};
use vfio_plugin_policy::pools::terms::{Busy, PinnedTerms};
use vfio_plugin_policy::testing::device_state;
use vfio_probe::{GroupId, Occupancy, Viability};

const SETTLING: Duration = Duration::from_secs(3);

/// Everything that the driver knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Driver {
    tracker: HealthTracker,
    snapshot: NodeSnapshot,
    /// The record of prepared claims, which outlives the process: claim and device.
    pub(super) record: BTreeMap<u8, u8>,
    /// The claims of the record whose containers have ended while their groups are held.
    pub(super) ended: BTreeSet<u8>,
}

/// A device as the kernel shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenDevice {
    pub(super) device: u8,
    pub(super) group: u32,
    pub(super) bound: bool,
    /// Whether a device of its group is open.
    pub(super) held: bool,
}

/// Returns the id of a device.
fn id(device: u8) -> String {
    format!("0000:{:02x}:00.0", device + 1)
}

impl Driver {
    /// SIGKILL and a new start.
    pub(super) fn restart(&mut self) {
        let old = std::mem::take(self);
        let text = serde_json::to_vec(&HealthContent(&old.tracker)).unwrap();
        let mut reasons = serde_json::from_slice::<StoredHealth>(&text).unwrap().into_reasons();
        reasons.retain(|id, _| old.tracker.decision(*id).is_some());
        *self = Self { tracker: HealthTracker::new(reasons), record: old.record, ..Self::default() };
    }

    /// Returns whether the driver has checked the node since its start. It publishes nothing before.
    pub(super) fn has_checked(&self) -> bool {
        self.snapshot.vfio_visible
    }

    /// Returns whether the device was bound in the latest snapshot.
    pub(super) fn saw_bound(&self, device: u8) -> bool {
        self.snapshot.devices.iter().any(|state| state.device.id.to_string() == id(device))
    }

    fn assignments(&self) -> Assignments {
        let claims = self.record.iter().filter(|(claim, _)| !self.ended.contains(*claim));
        let claimed = |(claim, device): (&u8, &u8)| {
            let pod = ClaimPod { uid: format!("uid-{claim}"), name: None };
            let claim = Arc::new(Claim {
                namespace: "default".to_owned(),
                name: format!("claim-{claim}"),
                uid: format!("claim-uid-{claim}"),
                pods: vec![pod],
                is_for_any_pod: false,
            });
            let ids = BTreeSet::from([id(*device)]);
            ClaimedDevices::new(&claim, "nvidia.com/GPU", ids, PinnedTerms::default())
        };
        Assignments::new(true, &Ledger::default()).with_claims(&claims.map(claimed).collect())
    }

    /// The monitor takes a snapshot of the node.
    pub(super) fn take_snapshot(&mut self, devices: &[SeenDevice], now: Instant) {
        let before = std::mem::take(&mut self.snapshot);
        self.snapshot.vfio_visible = true;
        for seen in devices.iter().filter(|seen| seen.bound) {
            let occupancy = if seen.held { Occupancy::Held } else { Occupancy::Free };
            let mut state =
                device_state(&id(seen.device), seen.group, occupancy, now, Viability::Viable, false);
            let known = before.get(state.device.id).and_then(|known| known.group.as_ref());
            if let (Some(group), Some(known)) = (&mut state.group, known)
                && known.occupancy == occupancy
            {
                group.since = known.since;
            }
            self.snapshot.devices.push(state);
        }
    }

    /// A call of the kubelet has found a group held.
    pub(super) fn found_held(&mut self, group: u32, now: Instant) {
        self.tracker.refused(GroupId(group), 0, now);
        for state in &mut self.snapshot.devices {
            if let Some(known) = state.group.as_mut().filter(|known| known.id.0 == group)
                && !known.occupancy.is_held()
            {
                (known.occupancy, known.since) = (Occupancy::Held, now);
            }
        }
    }

    /// Decides, and returns the slices to store.
    pub(super) fn wanted(&mut self, now: Instant) -> Slices {
        let assignments = self.assignments();
        let policy = Policy { busy: Busy::Attributed, settling: SETTLING, check_node: true };
        let gone = BTreeSet::new();
        let facts = Facts { snapshot: &self.snapshot, assignments: &assignments, gone: &gone, now };
        self.tracker.decide(policy, &facts);
        let mut listed = Vec::new();
        for (device, decision) in self.tracker.listed(&self.snapshot) {
            let prepared = assignments.is_claimed(device);
            if self.snapshot.get(device.device.id).is_none() && !prepared {
                continue;
            }
            let withheld = match &decision.health {
                Health::Unhealthy(reason) => Some(Withheld::from((**reason).clone())),
                Health::Healthy => None,
            };
            listed.push(Listed {
                id: device.device.id,
                group: device.device.group,
                attributes: Arc::default(),
                withheld,
                prepared,
            });
        }
        let driver: DraDriver = "vfio.example.com".parse().unwrap();
        let entries = entries(&driver, &listed, Features { taints: true, counters: true });
        let entry = |device: vfio_plugin_policy::dra::devices::Entry| {
            let known = (0..u8::MAX).find(|known| device_id(&device.name).unwrap().to_string() == id(*known));
            let entry = Entry { withheld: device.taint.is_some(), counted: device.counter.is_some() };
            (known.unwrap(), entry)
        };
        entries.devices.into_iter().map(entry).collect()
    }

    /// More than the settling time passes: moves everything that happened to `then`.
    pub(super) fn age(&mut self, then: Instant) {
        self.tracker.age(then);
        for group in self.snapshot.devices.iter_mut().filter_map(|state| state.group.as_mut()) {
            group.since = group.since.min(then);
        }
    }
}
