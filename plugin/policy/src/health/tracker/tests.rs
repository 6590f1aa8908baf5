//! What of the past decides what is told, as stories.

use super::*;
use crate::assignments::ledger::Ledger;
use crate::assignments::observation::{ListedPod, Observation};
use crate::testing::view;
use std::collections::BTreeSet;
use vfio_probe::Occupancy::{self, Absent, Free, Held};
use vfio_probe::Viability;

/// Two devices of group 51, and one of group 52.
const A: &str = "0000:01:00.0";
const PEER: &str = "0000:01:00.1";
const B: &str = "0000:02:00.0";
const R: &str = "nvidia.com/GPU";
const SETTLING: Duration = Duration::from_secs(3);
const HELD: &str = "held by pid 7 (qemu)";
const OF_A_VM: &str = "group 51 belongs to 0000:01:00.0 (pod a/vm)";
const GONE: &str = "the device is gone";
const UNBOUND: &str = "warning: no longer bound to a VFIO driver";

fn id(address: &str) -> DeviceId {
    address.parse().unwrap()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

fn seen(address: &str, occupancy: Occupancy, since: Instant) -> DeviceState {
    let group = if address == B { 52 } else { 51 };
    view(address, group, occupancy, since, Viability::Viable, false)
}

struct Story {
    told: HealthTracker,
    ledger: Ledger,
    /// The kubelet tells.
    answered: bool,
    snapshot: NodeSnapshot,
    begin: Instant,
    now: Instant,
    /// Devices that are not there at all.
    gone: Vec<DeviceId>,
    /// What came of the latest decision.
    round: HealthRound,
}

impl Story {
    fn new() -> Self {
        let now = Instant::now();
        let snapshot = NodeSnapshot { vfio_visible: true, ..NodeSnapshot::default() };
        let (told, ledger, round, gone) = Default::default();
        Self { told, ledger, answered: true, snapshot, begin: now, now, gone, round }
    }

    /// It is that many seconds after the begin.
    fn at(&mut self, seconds: u64) -> &mut Self {
        self.now = self.begin + Duration::from_secs(seconds);
        self
    }

    /// The device is bound, and its group like this from now on.
    fn sees(&mut self, address: &str, occupancy: Occupancy) -> &mut Self {
        let view = seen(address, occupancy, self.now);
        self.unbinds(address).snapshot.devices.push(view);
        self.snapshot.devices.sort_by_key(|view| view.device.id);
        self
    }

    /// Its pool has a policy of its own.
    fn has_policy(&mut self, address: &str, busy: Busy) -> &mut Self {
        let mut views = self.snapshot.devices.iter_mut();
        views.find(|view| view.device.id == id(address)).unwrap().terms.busy = Some(busy);
        self
    }

    fn unbinds(&mut self, address: &str) -> &mut Self {
        self.snapshot.devices.retain(|view| view.device.id != id(address));
        self
    }

    /// The kubelet lists a pod that has these, or none.
    fn lists(&mut self, ids: &[&str]) -> &mut Self {
        let given = (("compute".to_owned(), R.to_owned()), set(ids));
        let vm = ListedPod { full_name: "a/vm".to_owned(), devices: BTreeMap::from([given]) };
        let other = ListedPod { full_name: "a/other".to_owned(), devices: BTreeMap::new() };
        let listed = if ids.is_empty() { vec![other] } else { vec![other, vm] };
        self.ledger.observe(&Observation {
            pods: Some(&listed),
            settling: SETTLING,
            ..Observation::at(self.now)
        });
        self
    }

    /// We give a device away.
    fn grants(&mut self, resource: &str, address: &str) -> &mut Self {
        self.ledger.record_allocate(resource, set(&[address]), set(&[address]), Default::default(), self.now);
        self
    }

    /// The pod is missing as often as it takes.
    fn ends_the_pod(&mut self) -> &mut Self {
        self.lists(&[]).lists(&[])
    }

    fn refuses(&mut self, group: u32, reports_seen: u64) -> &mut Self {
        self.told.refused(GroupId(group), reports_seen, self.now);
        self
    }

    fn hears(&mut self, reports_seen: u64) -> &mut Self {
        self.snapshot.reports_seen = reports_seen;
        self
    }

    /// Our own restart: what was Unhealthy is remembered, and nobody has told anything yet.
    fn restarts(&mut self) -> &mut Self {
        self.told = HealthTracker::new(self.told.unhealthy());
        self.answered = false;
        self
    }

    /// Decides; each device as it is visited, with the reason or the warning, nothing for Healthy.
    fn tells(&mut self, expected: &[(&str, &str)]) -> &mut Self {
        let policy = Policy { busy: Busy::Attributed, settling: SETTLING, nodes: true };
        let owners = Assignments::new(self.answered, &self.ledger);
        let mut told = Vec::new();
        let mut visit = |view: &DeviceState, _: Option<&Decision>, now: &Decision| {
            let warning = now.warning.as_ref().map(|warning| format!("warning: {warning}"));
            let word = warning.or(now.health.reason().map(str::to_owned)).unwrap_or_default();
            told.push((view.device.id.to_string(), word));
        };
        let known = (&self.snapshot, &owners, self.now);
        self.round = self.told.decide(policy, known, &|id| !self.gone.contains(&id), &mut visit);
        let told: Vec<_> = told.iter().map(|(id, word)| (id.as_str(), word.as_str())).collect();
        assert_eq!(told, expected, "after {:?}", self.now - self.begin);
        self
    }

    /// When it decides again though nothing changes, in seconds after the begin.
    fn again(&mut self, seconds: impl Into<Option<u64>>) -> &mut Self {
        let due = seconds.into().map(|seconds| self.begin + Duration::from_secs(seconds));
        assert_eq!(self.round.again, due);
        self
    }

    /// What it tells of no more, and what it tells of though it is not bound.
    fn leaves(&mut self, dropped: &[&str], unbound: &[&str]) -> &mut Self {
        let known = self.told.unbound(&self.snapshot).map(|view| view.device.id);
        let ids = |of: &[&str]| of.iter().map(|&address| id(address)).collect::<Vec<_>>();
        assert_eq!((&self.round.dropped, known.collect()), (&ids(dropped), ids(unbound)));
        self
    }

    fn contests(&mut self, groups: &[u32]) -> &mut Self {
        assert_eq!(self.told.contested().map(|group| group.0).collect::<Vec<_>>(), groups);
        self
    }
}

#[test]
fn a_machine_without_a_pod_settles_from_when_it_was_seen() {
    let mut story = Story::new();
    story.sees(A, Free).tells(&[(A, "")]).again(None);
    story.at(50).sees(A, Held).tells(&[(A, "")]).again(53);
    story.at(52).tells(&[(A, "")]).again(53);
    story.at(53).tells(&[(A, HELD)]).again(None);
    story.at(54).sees(A, Free).tells(&[(A, "")]);
    // Of two the first to settle is when to decide again.
    story.at(60).sees(A, Held).at(61).sees(B, Absent).tells(&[(A, ""), (B, "")]).again(63);
    story.at(63).tells(&[(A, HELD), (B, "")]).again(64);
    story.at(64).tells(&[(A, HELD), (B, "no device node /dev/vfio/52")]).again(None);
}

#[test]
fn a_machine_that_outlives_its_pod_settles_from_when_the_pod_was_gone() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Held).at(100).tells(&[(A, "")]).again(None);
    story.ends_the_pod().tells(&[(A, "")]).again(103);
    story.at(102).tells(&[(A, "")]).again(103);
    story.at(103).tells(&[(A, HELD)]).again(None);
    // Another pod gets it and leaves it held as well: that settles anew.
    story.at(110).lists(&[A]).tells(&[(A, "")]).again(None);
    story.at(120).ends_the_pod().tells(&[(A, "")]).again(123);
}

#[test]
fn a_refusal_is_told_at_once_and_ends_when_an_open_has_succeeded_since() {
    let mut story = Story::new();
    story.sees(A, Held).sees(PEER, Held).sees(B, Held).tells(&[(A, ""), (PEER, ""), (B, "")]);
    // The whole group is refused, and no other.
    story.hears(4).refuses(51, 5).tells(&[(A, HELD), (PEER, HELD), (B, "")]).contests(&[51]);
    // Found free before the refusal: it is free as far as that goes, and the refusal stands.
    story.sees(A, Free).sees(PEER, Free).tells(&[(A, ""), (PEER, ""), (B, "")]).contests(&[51]);
    story.sees(A, Held).sees(PEER, Held).tells(&[(A, HELD), (PEER, HELD), (B, "")]).contests(&[51]);
    // All is reports_seen, and it is held; also if only one of them is.
    story.hears(5).tells(&[(A, HELD), (PEER, HELD), (B, "")]).contests(&[51]);
    story.sees(A, Free).tells(&[(A, ""), (PEER, HELD), (B, "")]).contests(&[51]);
    story.sees(PEER, Free).tells(&[(A, ""), (PEER, ""), (B, "")]).contests(&[]);
    story.sees(A, Held).tells(&[(A, ""), (PEER, ""), (B, "")]).again(3);
    // Nor is a group refused for ever of which nothing is bound any more.
    story.refuses(52, 6).unbinds(B).tells(&[(A, ""), (PEER, "")]).contests(&[52]);
    story.hears(6).tells(&[(A, ""), (PEER, "")]).contests(&[]);
}

#[test]
fn a_refused_device_is_its_pods_again_once_the_kubelet_lists_that_later() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Held).tells(&[(A, "")]);
    // The kubelet asks for it as if it were free: whether its pod is still there only a later answer tells.
    story.at(10).lists(&[A]).refuses(51, 0).tells(&[(A, HELD)]).contests(&[51]);
    story.at(11).tells(&[(A, HELD)]).contests(&[51]);
    story.lists(&[A]).tells(&[(A, "")]).contests(&[]);
    // An Allocate of ours is no answer of the kubelet's.
    let mut story = Story::new();
    story.sees(A, Held).refuses(51, 0).at(1).grants(R, A).tells(&[(A, HELD)]).contests(&[51]);
    story.lists(&[A]).tells(&[(A, "")]).contests(&[]);
}

#[test]
fn what_is_not_bound_is_dropped_unless_a_pod_owns_it() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Held).sees(B, Free).tells(&[(A, ""), (B, "")]).leaves(&[], &[]);
    story.unbinds(A).unbinds(B).tells(&[(A, UNBOUND)]).leaves(&[B], &[A]);
    assert!(story.told.of(id(B)).is_none());
    story.sees(A, Free).tells(&[(A, "")]).leaves(&[], &[]);
    story.gone.push(id(A));
    story.unbinds(A).tells(&[(A, GONE)]).leaves(&[], &[A]);
    assert_eq!(story.told.unhealthy(), BTreeMap::from([(A.to_owned(), GONE.to_owned())]));
    // What is bound comes first, whatever its id.
    story.sees(B, Free).tells(&[(B, ""), (A, GONE)]);
    story.ends_the_pod().tells(&[(B, "")]).leaves(&[A], &[]);
    // Bound again it settles anew.
    story.at(9).unbinds(B).tells(&[]).leaves(&[B], &[]);
    story.sees(B, Held).at(10).tells(&[(B, "")]).again(13);
}

#[test]
fn what_an_earlier_process_gave_away_and_is_not_bound_is_listed() {
    let mut story = Story::new();
    let devices = [A, B].map(|address| seen(address, Free, story.now));
    story.snapshot.unbound = devices.map(|view| DeviceState { group: None, ..view }).into();
    // Nobody owns the other one.
    story.lists(&[A]).restarts().tells(&[(A, UNBOUND)]).leaves(&[], &[A]);
    story.snapshot.unbound.clear();
    story.tells(&[(A, UNBOUND)]).leaves(&[], &[A]);
    story.ends_the_pod().tells(&[]).leaves(&[A], &[]);
}

#[test]
fn over_our_restart_what_was_unhealthy_stays_so_while_nobody_tells() {
    let mut story = Story::new();
    story.sees(A, Held).sees(B, Held).refuses(51, 0).refuses(52, 0).tells(&[(A, HELD), (B, HELD)]);
    // What can be told at once is; and an older plugin's id is nothing to us.
    let mut remembered = story.told.unhealthy();
    remembered.insert("51".to_owned(), HELD.to_owned());
    story.sees(B, Free).restarts().told = HealthTracker::new(remembered);
    story.tells(&[(A, HELD), (B, "")]).again(None);
    story.at(60).sees(B, Held).tells(&[(A, HELD), (B, "")]).again(None);
    assert_eq!(story.told.unhealthy(), BTreeMap::from([(A.to_owned(), HELD.to_owned())]));
    story.answered = true;
    story.lists(&[A]).tells(&[(A, ""), (B, "")]).again(63);
}

#[test]
fn what_is_not_there_at_the_first_decision_is_not_remembered() {
    let mut story = Story::new();
    story.sees(A, Held).sees(B, Held).refuses(51, 0).refuses(52, 0).tells(&[(A, HELD), (B, HELD)]);
    // It is bound to another driver when we start: once it is back, what was said of it then is over.
    story.restarts().unbinds(B).tells(&[(A, HELD)]);
    story.sees(B, Held).tells(&[(A, HELD), (B, "")]);
    // So it is of one that goes later.
    story.unbinds(A).tells(&[(B, "")]).leaves(&[A], &[]);
    story.sees(A, Held).tells(&[(A, ""), (B, "")]);
}

#[test]
fn the_other_devices_of_a_pods_group_are_unhealthy_and_say_whose_it_is() {
    let mut story = Story::new();
    story.lists(&[A]).sees(A, Held).sees(PEER, Held).tells(&[(A, ""), (PEER, OF_A_VM)]).again(None);
    // Also while the kubelet does not tell, and while the pod's device is not bound.
    story.restarts().tells(&[(A, ""), (PEER, OF_A_VM)]);
    story.unbinds(A).sees(PEER, Free).tells(&[(PEER, OF_A_VM), (A, UNBOUND)]);
    story.ends_the_pod().tells(&[(PEER, "")]).leaves(&[A], &[]);
    // Of a pod that has both, neither is the other's.
    story.sees(A, Held).sees(PEER, Held).lists(&[A, PEER]).tells(&[(A, ""), (PEER, "")]).again(None);
    // What was given away as another resource is not counted in this one.
    let mut story = Story::new();
    story.sees(B, Free).grants("example.com/gpu", B);
    story.tells(&[(B, "group 52 belongs to 0000:02:00.0 (a pod being admitted)")]);
}

#[test]
fn a_pools_policy_goes_before_the_general_one() {
    let mut story = Story::new();
    story
        .lists(&[A])
        .sees(A, Held)
        .has_policy(A, Busy::Unhealthy)
        .sees(B, Held)
        .has_policy(B, Busy::Advertise);
    story.tells(&[(A, HELD), (B, "")]).again(None);
    // Without one, the general policy: a pod's is Healthy, and what is nobody's settles.
    story.at(50).sees(A, Held).sees(B, Held).tells(&[(A, ""), (B, "")]).again(53);
    story.at(53).tells(&[(A, ""), (B, HELD)]).again(None);
}
