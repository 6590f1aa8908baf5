//! What makes an assignment, and which pod it is of.

use super::*;
use std::sync::Arc;

#[test]
fn list_and_checkpoint_make_one_assignment() {
    let mut story = Story::new();
    let update = story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    assert!(update.answered);
    story.expect(&[(A, "a/vm")]);
    assert_eq!(story.ledger.assignments()[0].pod.uid.as_deref(), Some("u1"));
    let update = story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    assert!(!update.poll_again);
}

#[test]
fn either_source_alone_makes_an_assignment() {
    let mut story = Story::new();
    story.poll(None, Some(&[entry("u1", &[A])]));
    story.expect(&[(A, "u1")]);
    story.poll(Some(&[pod("a/vm", &[A])]), None);
    story.expect(&[(A, "a/vm")]);
    let mut story = Story::new();
    story.poll(Some(&[pod("a/vm", &[A])]), None);
    story.expect(&[(A, "a/vm")]);
}

#[test]
fn pod_known_by_name_does_not_become_its_successor() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/one", &[A])]), None);
    for _ in 0..3 {
        story.poll(Some(&[pod("a/two", &[A])]), Some(&[entry("u2", &[A])]));
    }
    story.expect(&[(A, "a/two")]);
    story.is_new = true;
    story.poll(Some(&[pod("a/two", &[A])]), Some(&[entry("u2", &[A]), entry("u2", &[B])]));
    assert!(story.assigned().iter().any(|(id, _)| id == B), "u2 is not taken for ended");
}

#[test]
fn group_numbers_count_for_offered_resources_only() {
    let rdma = ListedPod {
        devices: BTreeMap::from([(("c".into(), "rdma/hca".into()), set(&["51"]))]),
        full_name: "a/rdma".into(),
    };
    let entry = CheckpointEntry { resource: "rdma/hca".into(), ..entry("u1", &["51"]) };
    let offered = BTreeSet::from([Arc::from(R)]);
    for (offered, known) in [(Some(&offered), 0), (None, 1)] {
        let mut ledger = Ledger::default();
        ledger.observe(&Observation {
            pods: Some(std::slice::from_ref(&rdma)),
            checkpoint: Some(std::slice::from_ref(&entry)),
            offered,
            ..Observation::at(Instant::now())
        });
        assert_eq!(ledger.assignments().len(), known);
    }
}

#[test]
fn successor_of_the_same_name_does_not_inherit() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    for _ in 0..2 {
        story.poll(Some(&[pod("a/vm", &[B])]), Some(&[entry("u2", &[B])]));
    }
    story.expect(&[(B, "a/vm")]);
    let other = CheckpointEntry { container: "other".into(), ..entry("u3", &[A]) };
    let mut listed = pod("a/vm", &[A]);
    let devices = listed.devices.remove(&("compute".to_owned(), R.to_owned())).unwrap();
    listed.devices.insert(("other".into(), R.into()), devices);
    for _ in 0..2 {
        story.poll(Some(&[listed.clone()]), Some(std::slice::from_ref(&other)));
    }
    story.expect(&[(A, "a/vm")]);
}

#[test]
fn next_pod_with_the_device_replaces_the_earlier_one() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/one", &[A])]), Some(&[entry("u1", &[A])]));
    for _ in 0..2 {
        story.poll(Some(&[pod("a/two", &[A])]), Some(&[entry("u2", &[A])]));
    }
    story.expect(&[(A, "a/two")]);
}

#[test]
fn list_of_a_starting_kubelet_still_names_pods() {
    let mut story = Story::new();
    story.starting = true;
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A]), entry("u2", &[B])]));
    story.expect(&[(A, "a/vm"), (B, "u2")]);
}

#[test]
fn init_containers_device_is_known_by_the_checkpoint() {
    let mut story = Story::new();
    let init = CheckpointEntry { container: "init".into(), ..entry("u1", &[A, B]) };
    let checkpoint = [init, entry("u1", &[A])];
    for _ in 0..3 {
        story.poll(Some(&[pod("a/vm", &[A])]), Some(&checkpoint));
    }
    let mut devices: Vec<_> = story.assigned().into_iter().map(|(id, _)| id).collect();
    devices.dedup();
    assert_eq!(devices, [A, B]);
    for _ in 0..2 {
        story.poll(Some(&[pod(OTHER, &[])]), Some(&[]));
    }
    story.expect(&[]);
}

#[test]
fn holders_pod_counts_only_if_the_checkpoint_names_it() {
    let holders = [holds("u1", &[A])];
    let mut story = Story::new();
    story.adopt = true;
    story.poll_with(Some(&[pod(OTHER, &[])]), Some(&[]), &holders);
    story.expect(&[]);
    let mut other = entry("u1", &["0000:09:00.0"]);
    other.resource = "example.com/other".into();
    story.poll_with(Some(&[pod(OTHER, &[])]), Some(std::slice::from_ref(&other)), &holders);
    assert!(story.assigned().contains(&(A.to_owned(), "pod u1".to_owned())));
    story.poll(Some(&[pod(OTHER, &[])]), Some(&[other]));
    assert!(story.assigned().contains(&(A.to_owned(), "pod u1".to_owned())));
    for _ in 0..2 {
        story.poll(Some(&[pod(OTHER, &[])]), Some(&[]));
    }
    story.expect(&[]);
}

#[test]
fn holding_pod_is_not_assigned_the_group_peers() {
    let mut story = Story::new();
    story.adopt = true;
    let holders = [holds("u1", &[B])];
    story.poll_with(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]), &holders);
    story.expect(&[(A, "a/vm")]);
}

#[test]
fn devices_of_other_plugins_are_ignored() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/fpga", &["fpga-0"])]), Some(&[entry("u1", &["fpga-0"])]));
    story.expect(&[]);
}
