//! What ends an assignment while the kubelet runs on.

use super::*;

#[test]
fn assignment_ends_after_two_lists_without_the_pod() {
    for checkpoint in [Some(&[][..]), None] {
        let mut story = Story::new();
        story.poll(Some(&[pod("a/vm", &[A]), pod(OTHER, &[])]), Some(&[entry("u1", &[A])]));
        let update = story.poll(Some(&[pod(OTHER, &[])]), checkpoint);
        assert!(update.poll_again && !update.checkpoint_is_stale);
        story.expect(&[(A, "a/vm")]);
        story.poll(Some(&[pod(OTHER, &[])]), checkpoint);
        story.expect(&[]);
    }
}

#[test]
fn checkpoint_entry_delays_the_end_until_rewritten() {
    let mut story = Story::new();
    let checkpoint = [entry("u1", &[A])];
    let without = [pod(OTHER, &[])];
    story.poll(Some(&[pod("a/vm", &[A]), pod(OTHER, &[])]), Some(&checkpoint));
    assert!(story.poll(Some(&without), Some(&checkpoint)).checkpoint_is_stale);
    // Without the API server a kubelet lists few pods, and keeps all of them in its checkpoint.
    story.is_new = true;
    for _ in 0..9 {
        story.poll(Some(&without), Some(&checkpoint));
        story.expect(&[(A, "a/vm")]);
    }
    // If the checkpoint is not written again, enough lists end the assignment.
    story.is_new = false;
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&checkpoint));
    for left in [1, 1, 1, 1, 0, 0] {
        story.poll(Some(&without), Some(&checkpoint));
        assert_eq!(story.assigned().len(), left);
    }
}

#[test]
fn pod_listed_without_its_devices_has_ended() {
    let mut story = Story::new();
    let checkpoint = [entry("u1", &[A])];
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&checkpoint));
    assert!(story.poll(Some(&[pod("a/vm", &[])]), Some(&checkpoint)).checkpoint_is_stale);
    story.expect(&[(A, "a/vm")]);
    story.poll(Some(&[pod("a/vm", &[])]), Some(&[]));
    story.expect(&[]);
}

#[test]
fn drop_by_the_same_kubelet_counts_over_our_restart() {
    let holders = [holds("u1", &[A])];
    let mut story = Story::new();
    story.poll(None, Some(&[entry("u1", &[A])]));
    story.restart();
    for _ in 0..2 {
        story.poll_with(Some(&[pod(OTHER, &[])]), Some(&[]), &holders);
    }
    story.expect(&[]);
}

#[test]
fn only_a_new_checkpoint_shows_that_an_entry_is_stale() {
    let mut story = Story::new();
    let checkpoint = [entry("u1", &[A])];
    for _ in 0..3 {
        assert!(story.poll(Some(&[pod(OTHER, &[])]), Some(&checkpoint)).checkpoint_is_stale);
        story.expect(&[(A, "u1")]);
    }
    // This checkpoint was written by the Allocate, before a list could lack the pod.
    let mut other = Story::new();
    other.poll(Some(&[pod(OTHER, &[])]), Some(&[]));
    other.is_new = true;
    other.starting = true;
    assert!(!other.poll(Some(&[pod(OTHER, &[])]), Some(&checkpoint)).checkpoint_is_stale);
    (other.starting, other.is_new) = (false, false);
    assert!(other.poll(Some(&[pod(OTHER, &[])]), Some(&checkpoint)).checkpoint_is_stale);
    // A new checkpoint still names the entry, as for an init container: it is not stale until other pods are listed.
    story.is_new = true;
    assert!(!story.poll(Some(&[pod(OTHER, &[])]), Some(&checkpoint)).checkpoint_is_stale);
    story.is_new = false;
    for _ in 0..3 {
        assert!(!story.poll(Some(&[pod(OTHER, &[])]), Some(&checkpoint)).checkpoint_is_stale);
        story.expect(&[(A, "u1")]);
    }
    assert!(story.poll(Some(&[pod("a/third", &[])]), Some(&checkpoint)).checkpoint_is_stale);
    for _ in 0..2 {
        assert!(!story.poll(Some(&[pod("a/third", &[])]), Some(&[])).checkpoint_is_stale);
    }
    story.expect(&[]);
    assert!(
        !story.poll(Some(&[]), Some(&checkpoint)).checkpoint_is_stale,
        "an empty list shows no missing pod"
    );
    assert!(!story.poll(None, Some(&checkpoint)).checkpoint_is_stale);
    assert!(!story.poll(Some(&[pod("a/vm", &[A])]), Some(&checkpoint)).checkpoint_is_stale);
}
