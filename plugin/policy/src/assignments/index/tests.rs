//! Tests of the index: lookups, peers, substitutes, and versions with added Allocates.

use super::*;
use crate::assignments::claims::ClaimPod;
use crate::assignments::observation::{CheckpointEntry, Observation};
use crate::testing::device_state;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::time::Instant;
use vfio_probe::{Occupancy, Viability};

const A: &str = "0000:01:00.0";
const PEER: &str = "0000:01:00.1";
const RESOURCE: &str = "nvidia.com/GPU";

fn device(address: &str) -> DeviceState {
    device_state(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false)
}

/// Assignments by Allocates: resource, ids in the checkpoint, real devices.
fn allocated(allocates: &[(&str, &[&str], &[&str])]) -> Assignments {
    let set = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
    let mut ledger = Ledger::default();
    for (resource, ids, real) in allocates {
        ledger.record_allocate(resource, set(ids), set(real), Default::default(), Instant::now());
    }
    Assignments::new(true, &ledger)
}

#[test]
fn group_peer_of_another_pod_blocks_the_device() {
    let (a, peer) = (device(A), device(PEER));
    let all = [a.clone(), peer.clone()];
    let blocker =
        |assignments: &Assignments, device| assignments.blocker(device, &all).map(|(id, _)| id.to_string());
    let by_peer = allocated(&[(RESOURCE, &[PEER], &[PEER])]);
    assert_eq!(blocker(&by_peer, &a).as_deref(), Some(PEER));
    assert_eq!(blocker(&by_peer, &peer), None);
    let together = allocated(&[(RESOURCE, &[A, PEER], &[A, PEER])]);
    assert_eq!(blocker(&together, &a), None, "the kubelet has released both, or neither");
    // The pod with both has ended, and the next pod has the first device.
    let again = allocated(&[(RESOURCE, &[A, PEER], &[A, PEER]), (RESOURCE, &[A], &[A])]);
    assert_eq!(blocker(&again, &a), None);
    assert_eq!(blocker(&again, &peer).as_deref(), Some(A));
    let apart = allocated(&[(RESOURCE, &[A], &[A]), (RESOURCE, &[PEER], &[PEER])]);
    assert_eq!(blocker(&apart, &a).as_deref(), Some(PEER));
}

#[test]
fn assignment_under_another_resource_blocks_the_device() {
    let a = device(A);
    let assignments = allocated(&[("example.com/gpu", &[A], &[A])]);
    assert!(assignments.assignment(&a).is_some() && !assignments.counts_as_requested(&a));
    assert_eq!(assignments.blocker(&a, []).map(|(id, _)| id), Some(a.device.id));
}

#[test]
fn group_number_counts_for_its_own_resource_only() {
    let a = device(A);
    assert!(allocated(&[(RESOURCE, &["51"], &["51"])]).counts_as_requested(&a));
    assert!(allocated(&[("example.com/gpu", &["51"], &["51"])]).assignment(&a).is_none());
    assert_eq!(allocated(&[(RESOURCE, &["51"], &["51"])]).reserved().groups, [GroupId(51)]);
}

#[test]
fn substitutes_are_known_both_ways() {
    let assignments = allocated(&[(RESOURCE, &["0000:09:00.0"], &[A])]);
    assert!(assignments.substituted_for(&device(A)).is_some());
    assert!(allocated(&[(RESOURCE, &[A], &[A])]).substituted_for(&device(A)).is_none());
    assert!(allocated(&[(RESOURCE, &["51"], &["51"])]).substituted_for(&device(A)).is_none());
    let substitutes = |id: &str| {
        assignments.substitutes_of(RESOURCE, id.parse().unwrap()).map(|id| id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(substitutes("0000:09:00.0"), [A]);
    assert!(substitutes(A).is_empty());
}

/// An Allocate of a story: ids in the checkpoint, and real devices. The number of a device is its bus.
type Allocate = (BTreeSet<u8>, BTreeSet<u8>);

fn names(buses: &BTreeSet<u8>) -> BTreeSet<String> {
    buses.iter().map(|bus| format!("0000:{bus:02x}:00.0")).collect()
}

/// The pod of a device, and the real devices of its record.
type Shown = Option<(Option<String>, BTreeSet<String>)>;

/// Returns what the assignments say of each device, and its substitutes.
fn shown(assignments: &Assignments) -> Vec<(Shown, Vec<DeviceId>)> {
    let of = |bus: u8| {
        let device = device(&format!("0000:{bus:02x}:00.0"));
        let record = assignments.assignment(&device);
        let record = record.map(|record| (record.pod.uid.clone(), record.device_ids.clone()));
        (record, assignments.substitutes_of(RESOURCE, device.device.id).collect())
    };
    (0..6).map(of).collect()
}

proptest! {
    /// A version with added Allocates shows the same as an index of a ledger that has taken them in.
    #[test]
    fn added_allocates_count_as_in_the_ledger(
        confirmed in vec(btree_set(0_u8..6, 1..3), 0..3),
        allocates in vec((btree_set(0_u8..6, 1..3), proptest::option::weighted(0.2, 0_u8..6)), 1..8),
    ) {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        let entries: Vec<CheckpointEntry> = confirmed.iter().enumerate().map(|(pod, buses)| CheckpointEntry {
            pod_uid: format!("pod-{pod}"),
            container: "compute".to_owned(),
            resource: RESOURCE.to_owned(),
            ids: names(buses),
            response_ids: BTreeSet::new(),
            ..CheckpointEntry::default()
        }).collect();
        ledger.observe(&Observation { checkpoint: Some(&entries), ..Observation::at(now) });
        let mut versions = Assignments::new(true, &ledger);
        let mut taken_in = ledger.clone();
        for (ids, substitute) in allocates {
            // A substitution replaces the first device.
            let real: BTreeSet<u8> = match substitute {
                Some(other) if !ids.contains(&other) => ids.iter().skip(1).copied().chain([other]).collect(),
                _ => ids.clone(),
            };
            let (ids, real): Allocate = (ids, real);
            ledger.record_allocate(RESOURCE, names(&ids), names(&real), Default::default(), now);
            let record = Assignment::allocated(RESOURCE, names(&ids), names(&real), Default::default(), now);
            versions = versions.with_allocates(&[Arc::new(record.clone())]).unwrap_or_else(|| {
                taken_in.add_allocates(versions.added().iter().map(|added| (**added).clone()));
                taken_in.add_allocates([record]);
                Assignments::new(true, &taken_in)
            });
            prop_assert_eq!(shown(&versions), shown(&Assignments::new(true, &ledger)));
        }
        taken_in.add_allocates(versions.added().iter().map(|added| (**added).clone()));
        prop_assert_eq!(shown(&Assignments::new(true, &taken_in)), shown(&Assignments::new(true, &ledger)));
        prop_assert_eq!(versions.reserved().devices, Assignments::new(true, &ledger).reserved().devices);
    }
}

#[test]
fn only_confirmations_differ_in_time_alone() {
    let at = |seconds| Instant::now() + std::time::Duration::from_secs(seconds);
    let entry = |uid: &str| CheckpointEntry {
        pod_uid: uid.to_owned(),
        container: "compute".to_owned(),
        resource: RESOURCE.to_owned(),
        ids: BTreeSet::from([A.to_owned()]),
        response_ids: BTreeSet::new(),
        ..CheckpointEntry::default()
    };
    let polled = |uid: &str, now| {
        let mut ledger = Ledger::default();
        ledger.observe(&Observation { checkpoint: Some(&[entry(uid)]), ..Observation::at(now) });
        Assignments::new(true, &ledger)
    };
    let first = polled("u", at(0));
    assert!(polled("u", at(10)).differs_only_in_time(&first));
    assert!(!polled("v", at(0)).differs_only_in_time(&first));
    assert!(!Assignments { known: false, ..first.clone() }.differs_only_in_time(&first));
    let record = Assignment::allocated(
        RESOURCE,
        [PEER.to_owned()].into(),
        [PEER.to_owned()].into(),
        Default::default(),
        at(0),
    );
    let added = first.with_allocates(&[Arc::new(record)]).unwrap();
    assert!(!added.differs_only_in_time(&first) && !first.differs_only_in_time(&added));
}

/// Returns one device as that of a claim with these pods.
fn claimed(id: &str, pods: &[&str]) -> Arc<[ClaimedDevices]> {
    let pods = pods.iter().map(|uid| ClaimPod { uid: (*uid).to_owned(), name: Some(format!("vm-{uid}")) });
    let claim = Claim {
        namespace: "a".to_owned(),
        name: "gpu".to_owned(),
        uid: "c1".to_owned(),
        pods: pods.collect(),
        is_for_any_pod: false,
    };
    let devices = ClaimedDevices::new(&Arc::new(claim), RESOURCE, [id.to_owned()].into(), Default::default());
    [devices].into()
}

#[test]
fn claims_are_assignments_beside_those_of_the_ledger() {
    let (a, peer) = (device(A), device(PEER));
    let ledger = || Assignments { known: false, ..allocated(&[(RESOURCE, &[PEER], &[PEER])]) };
    let assignments = ledger().with_claims(&claimed(A, &["u1"]));
    assert!(!assignments.known && assignments.is_claimed(&a) && !assignments.is_claimed(&peer));
    assert!(assignments.counts_as_requested(&a) && assignments.counts_as_requested(&peer));
    let reserved: Vec<String> = assignments.reserved().devices.iter().map(ToString::to_string).collect();
    assert_eq!(reserved, [A, PEER]);
    assert!(assignments.added().is_empty(), "the ledger does not take claims in");
    assert!(!ledger().with_claims(&[].into()).differs_only_in_time(&assignments));
    // The device plugin's pod and the claim have one device: the claim is the newer one.
    assert!(ledger().with_claims(&claimed(PEER, &["u1"])).is_claimed(&peer));
}

#[test]
fn claim_names_its_only_pod_and_itself() {
    let a = device(A);
    let one = Assignments::default().with_claims(&claimed(A, &["u1"]));
    assert_eq!(one.assignment(&a).unwrap().pod.to_string(), "pod a/vm-u1");
    assert_eq!(one.pod_name("u1"), Some("a/vm-u1"));
    let shared = Assignments::default().with_claims(&claimed(A, &["u1", "u2"]));
    let record = shared.assignment(&a).unwrap();
    assert_eq!((record.pod.uid.as_deref(), shared.describe(record)), (None, "claim a/gpu".to_owned()));
    assert_eq!(shared.claim(&a).unwrap().pods.len(), 2);
}

#[test]
fn claimed_device_stays_with_the_driver() {
    let mut a = device(A);
    let (none, claim) = (Assignments::default(), Assignments::default().with_claims(&claimed(A, &["u1"])));
    assert_eq!((none.offer_of(&a), claim.offer_of(&a)), (OfferBy::DevicePlugin, OfferBy::Dra));
    assert!(!none.knows(&a), "the kubelet was not polled");
    a.terms.offer = OfferBy::Dra;
    assert!(none.knows(&a) && none.offer_of(&a) == OfferBy::Dra);
}
