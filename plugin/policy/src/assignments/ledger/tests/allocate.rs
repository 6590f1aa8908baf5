//! Allocates that the kubelet does not show yet.

use super::*;

#[test]
fn allocate_counts_until_shown_or_expired() {
    let mut story = Story::new();
    story.allocate(&[A]);
    assert_eq!(story.assigned(), [(A.to_owned(), "a pod being admitted".to_owned())]);
    for (pods, checkpoint) in [(None, None), (None, Some(&[][..])), (Some(&[pod(OTHER, &[])][..]), None)] {
        for _ in 0..5 {
            assert!(!story.poll(pods, checkpoint).poll_again);
        }
    }
    assert_eq!(story.assigned().len(), 1, "one source alone does not end an Allocate");
    story.now += UNCONFIRMED;
    story.poll(None, None);
    story.expect(&[]);
    story.allocate(&[A]);
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.now += UNCONFIRMED;
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.expect(&[(A, "a/vm")]);
    story.allocate(&[A]);
    assert_eq!(story.assigned().len(), 2, "it may be for another pod");
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.expect(&[(A, "a/vm")]);
}

#[test]
fn allocate_ends_if_not_shown_after_settling() {
    let mut story = Story::new();
    story.allocate(&[A]);
    let mut poll = || {
        let again = story.poll(Some(&[pod(OTHER, &[])]), Some(&[])).poll_again;
        (again, story.assigned().len())
    };
    assert_eq!([poll(), poll()], [(true, 1); 2], "not before the settling time has passed");
    assert_eq!([poll(), poll()], [(true, 1), (false, 0)]);
}

#[test]
fn substitute_is_the_assigned_device() {
    let mut story = Story::new();
    story.ledger.record_allocate(R, set(&[A]), set(&[B]), Default::default(), story.now);
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[substituted("u1", &[A], &[B])]));
    story.expect(&[(B, "a/vm")]);
    let mut restarted = Story::new();
    restarted.poll(Some(&[pod("a/vm", &[A])]), Some(&[substituted("u1", &[A], &[B])]));
    restarted.expect(&[(B, "a/vm")]);
}

#[test]
fn unconfirmed_allocate_survives_a_plugin_restart() {
    let mut story = Story::new();
    story.ledger.record_allocate(R, set(&["0000:09:00.0"]), set(&[A]), Default::default(), story.now);
    let text = serde_json::to_vec(&story.ledger).unwrap();
    story.restart();
    story.poll(None, None);
    assert_eq!(story.assigned(), [(A.to_owned(), "a pod being admitted".to_owned())]);
    story.poll(Some(&[pod("a/vm", &["0000:09:00.0"])]), Some(&[substituted("u1", &["0000:09:00.0"], &[A])]));
    story.expect(&[(A, "a/vm")]);
    story.ledger = serde_json::from_slice(&text).unwrap();
    story.ledger.restarted(story.now);
    story.now += UNCONFIRMED;
    story.poll(None, None);
    story.expect(&[]);
}

#[test]
fn allocate_of_an_earlier_process_is_not_just_allocated() {
    let mut story = Story::new();
    let is_of_this_process = |story: &Story| {
        let record = &story.ledger.assignments()[0];
        assert!(record.is_unconfirmed());
        record.was_just_allocated()
    };
    story.allocate(&[A]);
    assert!(is_of_this_process(&story));
    // The node may have rebooted, so the nodes in the kubelet's answer may be stale.
    story.restart();
    assert!(!is_of_this_process(&story));
    story.allocate(&[A]);
    assert!(is_of_this_process(&story), "it replaces the earlier one");
}

#[test]
fn assignment_is_unnamed_until_the_list_names_its_pod() {
    let mut story = Story::new();
    story.allocate(&[A]);
    assert!(story.poll(Some(&[]), Some(&[])).unnamed, "the pod is being admitted");
    assert!(story.poll(Some(&[]), Some(&[entry("u1", &[A])])).unnamed, "the checkpoint has uids only");
    assert!(!story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])])).unnamed);
    assert!(!story.poll(None, None).unnamed);
}
