//! Plays stories over time: what of the past decides the next report.

mod restart;
mod stale_answers;

use super::*;
use crate::assignments::ledger::Ledger;
use crate::assignments::observation::{ListedPod, Observation};
use crate::health::stored::{HealthContent, StoredHealth};
use crate::testing::device_state;
use proptest::prelude::*;
use vfio_probe::Occupancy::{self, Absent, Free, Held};
use vfio_probe::Viability;
use vfio_probe::text::Text;

/// Two devices of group 51, and one of group 52.
const A: &str = "0000:01:00.0";
const PEER: &str = "0000:01:00.1";
const B: &str = "0000:02:00.0";
const R: &str = "nvidia.com/GPU";
const SETTLING: Duration = Duration::from_secs(3);
const HELD: &str = "held by pid 7 (qemu)";
const HELD_BY_AER: &str = "held by pid 7 (AER)";
const ASSIGNED_PEER: &str = "group 51 belongs to 0000:01:00.0 (pod a/vm)";
const GONE: &str = "the device is gone";
const UNBOUND: &str = "warning: no longer bound to a VFIO driver";

fn id(address: &str) -> DeviceId {
    address.parse().unwrap()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

fn reasons(tracker: &HealthTracker) -> Vec<(DeviceId, Reason)> {
    tracker.reasons().map(|(id, reason)| (id, reason.clone())).collect()
}

fn device_at(address: &str, occupancy: Occupancy, since: Instant) -> DeviceState {
    let group = if address == B { 52 } else { 51 };
    device_state(address, group, occupancy, since, Viability::Viable, false)
}

/// A node, its kubelet and the tracker. Methods say what happens, in the order of the story.
struct Story {
    tracker: HealthTracker,
    ledger: Ledger,
    /// Whether the assignments are known.
    known: bool,
    snapshot: NodeSnapshot,
    begin: Instant,
    now: Instant,
    /// Devices that do not exist.
    gone: BTreeSet<DeviceId>,
    /// From the latest pass.
    dropped: Vec<DeviceId>,
    decide_again: Option<Instant>,
}

impl Story {
    fn new() -> Self {
        let now = Instant::now();
        let snapshot = NodeSnapshot { vfio_visible: true, ..NodeSnapshot::default() };
        let (tracker, ledger, gone, dropped, decide_again) = Default::default();
        Self { tracker, ledger, known: true, snapshot, begin: now, now, gone, dropped, decide_again }
    }

    /// Moves the time to this many seconds after the begin.
    fn at(&mut self, seconds: u64) -> &mut Self {
        self.now = self.begin + Duration::from_secs(seconds);
        self
    }

    /// The device is bound, and its group has this occupancy from now on.
    fn sees(&mut self, address: &str, occupancy: Occupancy) -> &mut Self {
        let device = device_at(address, occupancy, self.now);
        self.unbinds(address).snapshot.devices.push(device);
        self.snapshot.devices.sort_by_key(|device| device.device.id);
        self
    }

    fn device(&mut self, address: &str) -> &mut DeviceState {
        self.snapshot.devices.iter_mut().find(|device| device.device.id == id(address)).unwrap()
    }

    /// The device's pool has a policy of its own.
    fn has_policy(&mut self, address: &str, busy: Busy) -> &mut Self {
        self.device(address).terms.busy = Some(busy);
        self
    }

    /// The holder changes its command name.
    fn is_held_by(&mut self, address: &str, command: &[u8]) -> &mut Self {
        self.device(address).group.as_mut().unwrap().holders[0].command = Text::lossy(command);
        self
    }

    fn unbinds(&mut self, address: &str) -> &mut Self {
        self.snapshot.devices.retain(|device| device.device.id != id(address));
        self
    }

    /// The record of the device cannot be read: the snapshot has an error instead.
    fn cannot_read(&mut self, address: &str) -> &mut Self {
        let error = vfio_probe::Error::malformed("uevent").of_device(id(address));
        self.unbinds(address).snapshot.errors.push(error);
        self
    }

    /// The kubelet lists a pod with these devices. Without devices it lists another pod only.
    fn lists(&mut self, ids: &[&str]) -> &mut Self {
        let devices = (("compute".to_owned(), R.to_owned()), set(ids));
        let vm = ListedPod { full_name: "a/vm".to_owned(), devices: BTreeMap::from([devices]) };
        let other = ListedPod { full_name: "a/other".to_owned(), devices: BTreeMap::new() };
        let listed = if ids.is_empty() { vec![other] } else { vec![other, vm] };
        self.ledger.observe(&Observation {
            pods: Some(&listed),
            settling: SETTLING,
            ..Observation::at(self.now)
        });
        self
    }

    /// The plugin grants an Allocate.
    fn grants(&mut self, resource: &str, address: &str) -> &mut Self {
        self.ledger.record_allocate(resource, set(&[address]), set(&[address]), Default::default(), self.now);
        self
    }

    /// The pod is missing in as many lists as end its assignment.
    fn ends_the_pod(&mut self) -> &mut Self {
        self.lists(&[]).lists(&[])
    }

    fn refuses(&mut self, group: u32, reports_seen: u64) -> &mut Self {
        self.tracker.refused(GroupId(group), reports_seen, self.now);
        self
    }

    /// The snapshot contains this many reports.
    fn takes_in(&mut self, reports_seen: u64) -> &mut Self {
        self.snapshot.reports_seen = reports_seen;
        self
    }

    /// The plugin restarts with its state file, and does not know the assignments yet.
    fn restarts(&mut self) -> &mut Self {
        let file = serde_json::to_string(&HealthContent(&self.tracker)).unwrap();
        let stored: StoredHealth = serde_json::from_str(&file).unwrap();
        self.tracker = HealthTracker::new(stored.into_reasons());
        self.known = false;
        self
    }

    /// Decides, and compares each device's reason or warning, in the order of the lists. An empty text is Healthy.
    fn reports(&mut self, expected: &[(&str, &str)]) -> &mut Self {
        let policy = Policy { busy: Busy::Attributed, settling: SETTLING, check_node: true };
        let assignments = Assignments::new(self.known, &self.ledger);
        let unlisted: BTreeSet<DeviceId> = self.tracker.unlisted(&self.snapshot).collect();
        let gone = &self.gone & &unlisted;
        let facts = Facts { snapshot: &self.snapshot, assignments: &assignments, gone: &gone, now: self.now };
        let known = self.tracker.clone();
        let pass = self.tracker.decide(policy, &facts);
        let text = |decision: &Decision| match &decision.warning {
            Some(warning) => format!("warning: {warning}"),
            None => decision.health.reason().map(ToString::to_string).unwrap_or_default(),
        };
        let mut reported = Vec::new();
        for (device, after) in self.tracker.listed(&self.snapshot) {
            let id = device.device.id;
            let change = pass.changes.iter().find(|change| change.device == id);
            let before = change.map_or(Some(after), |change| change.before.as_ref());
            assert_eq!(before, known.decision(id));
            assert_eq!(change.is_some(), known.decision(id) != Some(after));
            reported.push((id.to_string(), text(after)));
        }
        assert!(pass.reasons_changed || reasons(&known) == reasons(&self.tracker));
        // Nothing has changed since, so another pass changes nothing.
        let again = self.tracker.clone().decide(policy, &facts);
        assert!(again.changes.is_empty() && again.dropped.is_empty() && !again.reasons_changed);
        let reported: Vec<_> = reported.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        assert_eq!(reported, expected, "after {:?}", self.now - self.begin);
        (self.dropped, self.decide_again) = (pass.dropped, pass.decide_again);
        self
    }

    /// Compares when the tracker wants to decide again, in seconds after the begin.
    fn again(&mut self, seconds: impl Into<Option<u64>>) -> &mut Self {
        let due = seconds.into().map(|seconds| self.begin + Duration::from_secs(seconds));
        assert_eq!(self.decide_again, due);
        self
    }

    /// Compares the devices that left the lists, and those that are listed without being bound.
    fn leaves(&mut self, dropped: &[&str], unbound: &[&str]) -> &mut Self {
        let known = self.tracker.unbound(&self.snapshot).map(|device| device.device.id);
        let ids = |of: &[&str]| of.iter().map(|&address| id(address)).collect::<Vec<_>>();
        assert_eq!((&self.dropped, known.collect()), (&ids(dropped), ids(unbound)));
        self
    }

    fn contests(&mut self, groups: &[u32]) -> &mut Self {
        assert_eq!(self.tracker.contested().map(|group| group.0).collect::<Vec<_>>(), groups);
        self
    }

    /// Compares what the state file keeps.
    fn keeps(&mut self, expected: &[(&str, &str)]) -> &mut Self {
        let kept: Vec<_> =
            self.tracker.reasons().map(|(id, reason)| (id.to_string(), reason.to_string())).collect();
        let kept: Vec<_> = kept.iter().map(|(id, reason)| (id.as_str(), reason.as_str())).collect();
        assert_eq!(kept, expected);
        self
    }
}

#[test]
fn vm_without_a_pod_settles_from_when_it_was_seen() {
    let mut story = Story::new();
    story.sees(A, Free).reports(&[(A, "")]).again(None);
    story.at(50).sees(A, Held).reports(&[(A, "")]).again(53);
    story.at(52).reports(&[(A, "")]).again(53);
    story.at(53).reports(&[(A, HELD)]).again(None);
    story.at(54).sees(A, Free).reports(&[(A, "")]);
    // Of two devices, the first to settle is when to decide again.
    story.at(60).sees(A, Held).at(61).sees(B, Absent).reports(&[(A, ""), (B, "")]).again(63);
    story.at(63).reports(&[(A, HELD), (B, "")]).again(64);
    story.at(64).reports(&[(A, HELD), (B, "no device node /dev/vfio/52")]).again(None);
}

#[test]
fn vm_that_outlives_its_pod_settles_from_the_pods_end() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Held).at(100).reports(&[(A, "")]).again(None);
    story.ends_the_pod().reports(&[(A, "")]).again(103);
    story.at(102).reports(&[(A, "")]).again(103);
    story.at(103).reports(&[(A, HELD)]).again(None);
    // Another pod is assigned the device and leaves it held as well: that settles again.
    story.at(110).lists(&[A]).reports(&[(A, "")]).again(None);
    story.at(120).ends_the_pod().reports(&[(A, "")]).again(123);
}

#[test]
fn refusal_is_reported_at_once_and_ends_with_a_successful_open() {
    let mut story = Story::new();
    story.sees(A, Held).sees(PEER, Held).sees(B, Held).reports(&[(A, ""), (PEER, ""), (B, "")]);
    // The refusal is about the whole group, and about no other.
    story.takes_in(4).refuses(51, 5).reports(&[(A, HELD), (PEER, HELD), (B, "")]).contests(&[51]);
    // The snapshot that shows the group free is older than the refusal: the refusal stands.
    story.sees(A, Free).sees(PEER, Free).reports(&[(A, ""), (PEER, ""), (B, "")]).contests(&[51]);
    story.sees(A, Held).sees(PEER, Held).reports(&[(A, HELD), (PEER, HELD), (B, "")]).contests(&[51]);
    // The snapshot is new enough, and the group is held, also if only one of its devices says so.
    story.takes_in(5).reports(&[(A, HELD), (PEER, HELD), (B, "")]).contests(&[51]);
    story.sees(A, Free).reports(&[(A, ""), (PEER, HELD), (B, "")]).contests(&[51]);
    story.sees(PEER, Free).reports(&[(A, ""), (PEER, ""), (B, "")]).contests(&[]);
    story.sees(A, Held).reports(&[(A, ""), (PEER, ""), (B, "")]).again(3);
    // The refusal of a group without bound devices ends as well.
    story.refuses(52, 6).unbinds(B).reports(&[(A, ""), (PEER, "")]).contests(&[52]);
    story.takes_in(6).reports(&[(A, ""), (PEER, "")]).contests(&[]);
}

#[test]
fn refused_device_is_assigned_again_once_the_kubelet_lists_it() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Held).reports(&[(A, "")]);
    // The kubelet requests it as if it were free. Only a later list shows whether its pod still exists.
    story.at(10).lists(&[A]).refuses(51, 0).reports(&[(A, HELD)]).contests(&[51]);
    story.at(11).reports(&[(A, HELD)]).contests(&[51]);
    story.lists(&[A]).reports(&[(A, "")]).contests(&[]);
    // An Allocate that the plugin granted is no list.
    let mut story = Story::new();
    story.sees(A, Held).refuses(51, 0).at(1).grants(R, A).reports(&[(A, HELD)]).contests(&[51]);
    story.lists(&[A]).reports(&[(A, "")]).contests(&[]);
}

#[test]
fn unbound_device_is_dropped_unless_it_is_assigned() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Held).sees(B, Free).reports(&[(A, ""), (B, "")]).leaves(&[], &[]);
    story.unbinds(A).unbinds(B).reports(&[(A, UNBOUND)]).leaves(&[B], &[A]);
    assert!(story.tracker.decision(id(B)).is_none());
    story.sees(A, Free).reports(&[(A, "")]).leaves(&[], &[]);
    story.gone.insert(id(A));
    story.unbinds(A).reports(&[(A, GONE)]).leaves(&[], &[A]).keeps(&[(A, GONE)]);
    // Bound devices come first, whatever their ids.
    story.sees(B, Free).reports(&[(B, ""), (A, GONE)]);
    story.ends_the_pod().reports(&[(B, "")]).leaves(&[A], &[]);
    // A device that is bound again settles again.
    story.at(9).unbinds(B).reports(&[]).leaves(&[B], &[]);
    story.sees(B, Held).at(10).reports(&[(B, "")]).again(13);
}

#[test]
fn device_that_is_back_is_not_reported_as_gone() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Free).reports(&[(A, "")]).gone.insert(id(A));
    story.unbinds(A).reports(&[(A, GONE)]).gone.clear();
    story.ends_the_pod().known = false;
    let unknown = Occupancy::Unknown(vfio_probe::UnknownReason::NotProbed);
    story.sees(A, unknown).reports(&[(A, "")]);
}

#[test]
fn peers_of_an_assigned_device_are_unhealthy_and_name_its_pod() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Held).sees(PEER, Held).reports(&[(A, ""), (PEER, ASSIGNED_PEER)]).again(None);
    // Also while assignments cannot be read, and while the assigned device is not bound.
    story.restarts().reports(&[(A, ""), (PEER, ASSIGNED_PEER)]);
    story.unbinds(A).sees(PEER, Free).reports(&[(PEER, ASSIGNED_PEER), (A, UNBOUND)]);
    story.ends_the_pod().reports(&[(PEER, "")]).leaves(&[A], &[]);
    // If one pod has both devices, neither blocks the other.
    story.sees(A, Held).sees(PEER, Held).lists(&[A, PEER]).reports(&[(A, ""), (PEER, "")]).again(None);
    // A device that was allocated as another resource is not counted in this one.
    let mut story = Story::new();
    story.sees(B, Free).grants("example.com/gpu", B);
    story.reports(&[(B, "group 52 belongs to 0000:02:00.0 (a pod being admitted)")]);
}

#[test]
fn policy_of_a_pool_precedes_the_general_one() {
    let mut story = Story::new();
    story
        .lists(&[A])
        .sees(A, Held)
        .has_policy(A, Busy::Unhealthy)
        .sees(B, Held)
        .has_policy(B, Busy::Advertise);
    story.reports(&[(A, HELD), (B, "")]).again(None);
    // Without one, the general policy: an assigned device is Healthy, an unassigned hold settles.
    story.at(50).sees(A, Held).sees(B, Held).reports(&[(A, ""), (B, "")]).again(53);
    story.at(53).reports(&[(A, ""), (B, HELD)]).again(None);
}

proptest! {
    /// After an Allocate, a pass over its devices decides as a pass over all devices does.
    #[test]
    fn pass_over_allocated_devices_decides_as_one_over_all(
        held in [any::<bool>(), any::<bool>(), any::<bool>()],
        refused in proptest::option::weighted(0.3, 51_u32..53),
        known: bool,
        allocates in proptest::collection::vec(0_usize..3, 1..5),
    ) {
        let begin = Instant::now();
        let addresses = [A, PEER, B];
        let occupancy = |held| if held { Held } else { Free };
        let devices = addresses.iter().zip(held).map(|(address, held)| device_at(address, occupancy(held), begin));
        let snapshot = NodeSnapshot { devices: devices.collect(), vfio_visible: true, ..NodeSnapshot::default() };
        let policy = Policy { busy: Busy::Attributed, settling: SETTLING, check_node: true };
        let mut ledger = Ledger::default();
        let mut whole = HealthTracker::default();
        let gone = BTreeSet::new();
        let assignments = Assignments::new(known, &ledger);
        whole.decide(policy, &Facts { snapshot: &snapshot, assignments: &assignments, gone: &gone, now: begin });
        if let Some(group) = refused {
            whole.refused(GroupId(group), 1, begin);
            whole.decide(policy, &Facts { snapshot: &snapshot, assignments: &assignments, gone: &gone, now: begin });
        }
        let mut partial = whole.clone();
        for (step, index) in (1..).zip(allocates) {
            let ids = set(&[addresses[index]]);
            let now = begin + Duration::from_secs(step);
            ledger.record_allocate(R, ids.clone(), ids, Default::default(), now);
            let assignments = Assignments::new(known, &ledger);
            let facts = Facts { snapshot: &snapshot, assignments: &assignments, gone: &gone, now };
            let pass = partial.decide_assigned(policy, &facts, &[id(addresses[index])]).unwrap();
            // A hold settles for other devices in the meantime. A pass over all devices is due then.
            let due = whole.clone().decide(policy, &facts);
            let of_others = |change: &Change| {
                let group = snapshot.get(change.device).unwrap().device.group;
                group != snapshot.get(id(addresses[index])).unwrap().device.group
            };
            if due.changes.iter().any(of_others) {
                return Ok(());
            }
            let all = whole.decide(policy, &facts);
            // The time since which a refused device is unassigned does not matter, and starts again in each pass over all devices.
            let decisions = |tracker: &HealthTracker| {
                tracker.listed(&snapshot).map(|(_, decision)| decision.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(decisions(&partial), decisions(&whole));
            prop_assert_eq!(reasons(&partial), reasons(&whole));
            prop_assert_eq!(pass.changes.len(), all.changes.len());
            prop_assert_eq!(pass.reasons_changed, all.reasons_changed);
        }
    }
}
