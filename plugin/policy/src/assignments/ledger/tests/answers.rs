//! The kubelet's stored answers: which of them a record keeps, and for how long.

use super::*;

/// The checkpoint's entry of a pod's container with these nodes in its answer.
fn answered(uid: &str, container: &str, ids: &[&str], nodes: &[&str]) -> CheckpointEntry {
    CheckpointEntry { container: container.to_owned(), nodes: set(nodes), ..entry(uid, ids) }
}

impl Story {
    /// The nodes of each record, by pod.
    fn answers(&self) -> Vec<String> {
        let words = |record: &Assignment| {
            let nodes = serde_json::to_value(&record.answer).unwrap();
            let nodes: Vec<String> = serde_json::from_value(nodes).unwrap();
            format!("{} {}", record.pod.uid.clone().unwrap_or_default(), nodes.join(" "))
        };
        self.ledger.assignments().iter().map(words).collect()
    }
}

#[test]
fn containers_of_a_pod_with_the_same_devices_share_a_record() {
    let mut story = Story::new();
    let init = answered("u1", "init", &[A], &["/dev/vfio/51", "/dev/vfio/vfio"]);
    let compute = answered("u1", "compute", &[A], &["/dev/vfio/52"]);
    for checkpoint in [[init.clone(), compute.clone()], [compute.clone(), init]] {
        story.poll(Some(&[pod("a/vm", &[A])]), Some(&checkpoint));
        assert_eq!(story.answers(), ["u1 /dev/vfio/51 /dev/vfio/52"]);
    }
    // An entry that is gone takes its nodes along.
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[compute]));
    assert_eq!(story.answers(), ["u1 /dev/vfio/52"]);
}

#[test]
fn init_container_with_more_devices_has_an_answer_of_its_own() {
    let mut story = Story::new();
    let init = answered("u1", "init", &[A, B], &["/dev/vfio/51", "/dev/vfio/52"]);
    let compute = answered("u1", "compute", &[A], &["/dev/vfio/51"]);
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[init, compute]));
    assert_eq!(story.answers(), ["u1 /dev/vfio/51 /dev/vfio/52", "u1 /dev/vfio/51"]);
}

#[test]
fn answer_stays_without_the_checkpoint_and_over_a_restart() {
    let mut story = Story::new();
    story.allocate(&[A]);
    assert_eq!(story.answers(), [" "], "the checkpoint has not shown it yet");
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[answered("u1", "compute", &[A], &["/dev/vfio/51"])]));
    for _ in 0..3 {
        story.poll(Some(&[pod("a/vm", &[A])]), None);
        story.restart();
        assert_eq!(story.answers(), ["u1 /dev/vfio/51"]);
    }
    // The kubelet has lost its checkpoint, and may have started the container before.
    story.restart_kubelet();
    story.poll(Some(&[pod("a/vm", &[])]), Some(&[]));
    assert_eq!(story.answers(), ["u1 /dev/vfio/51"]);
    // The next pod with the device has another answer.
    story.allocate(&[A]);
    story.poll(Some(&[pod("a/two", &[A])]), Some(&[answered("u2", "compute", &[A], &["/dev/vfio/60"])]));
    assert!(story.answers().contains(&"u2 /dev/vfio/60".to_owned()), "{:?}", story.answers());
}

#[test]
fn state_file_of_an_earlier_version_has_no_answers() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[answered("u1", "compute", &[A], &["/dev/vfio/51"])]));
    let mut json = serde_json::to_value(&story.ledger).unwrap();
    let record = json["records"][0].as_object_mut().unwrap();
    assert!(record.remove("answer").is_some() && record.remove("was_offered").is_some());
    story.ledger = serde_json::from_value(json).unwrap();
    assert_eq!(story.answers(), ["u1 "]);
    story.expect(&[(A, "a/vm")]);
}

#[test]
fn resource_that_was_offered_once_stays_this_plugins() {
    let mut story = Story::new();
    let offered = BTreeSet::from([R.into()]);
    let is_ours = |story: &Story| story.ledger.assignments()[0].is_of_this_plugin();
    story.poll(Some(&[pod("a/vm", &[A])]), None);
    assert!(!is_ours(&story));
    story.ledger.observe(&Observation { offered: Some(&offered), ..Observation::at(story.now) });
    assert!(is_ours(&story));
    story.ledger.observe(&Observation { offered: Some(&BTreeSet::new()), ..Observation::at(story.now) });
    story.restart();
    assert!(is_ours(&story));
    story.allocate(&[B]);
    assert!(story.ledger.assignments()[1].is_of_this_plugin(), "an Allocate of this plugin");
}
