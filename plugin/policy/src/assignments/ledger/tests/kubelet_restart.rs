//! What a restarted kubelet, with or without its checkpoint, means for assignments.

use super::*;

#[test]
fn empty_lists_failures_and_a_new_kubelet_end_nothing() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/vm", &[A])]), None);
    for _ in 0..5 {
        assert!(!story.poll(Some(&[]), None).answered);
        assert!(!story.poll(None, None).answered);
    }
    story.expect(&[(A, "a/vm")]);
    for _ in 0..4 {
        story.restart_kubelet();
        story.poll(Some(&[pod(OTHER, &[])]), None);
        story.expect(&[(A, "a/vm")]);
    }
    story.poll(Some(&[pod(OTHER, &[])]), None);
    story.expect(&[]);
}

#[test]
fn starting_kubelet_with_static_pods_only_ends_nothing() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.restart_kubelet();
    story.starting = true;
    for _ in 0..5 {
        assert!(story.poll(Some(&[pod(OTHER, &[])]), Some(&[])).answered);
        story.expect(&[(A, "a/vm")]);
    }
    for _ in 0..5 {
        story.poll(Some(&[pod(OTHER, &[]), pod("a/vm", &[])]), Some(&[]));
        story.expect(&[(A, "a/vm")]);
    }
    story.starting = false;
    for _ in 0..2 {
        story.poll(Some(&[pod(OTHER, &[])]), Some(&[]));
    }
    story.expect(&[]);
}

#[test]
fn running_unnamed_pod_survives_a_lost_checkpoint() {
    let holders = [holds("u1", &[A])];
    let mut story = Story::new();
    story.poll(None, Some(&[entry("u1", &[A])]));
    story.restart_kubelet();
    for _ in 0..3 {
        story.poll_with(Some(&[pod("a/vm", &[]), pod(OTHER, &[])]), Some(&[]), &holders);
        story.expect(&[(A, "u1")]);
    }
    let elsewhere = [holds("u1", &[B])];
    for _ in 0..2 {
        story.poll_with(Some(&[pod(OTHER, &[])]), Some(&[]), &elsewhere);
    }
    story.expect(&[]);
}

#[test]
fn sandbox_of_an_unknown_pod_keeps_the_assignment() {
    // As above, and the cgroup of the VM names no pod: /kata_overhead/<id>.
    let mut story = Story::new();
    story.poll(None, Some(&[entry("u1", &[A])]));
    story.restart_kubelet();
    story.unknown = set(&[A]);
    for _ in 0..6 {
        story.poll_with(Some(&[pod("a/vm", &[]), pod(OTHER, &[])]), Some(&[]), &[]);
        story.expect(&[(A, "u1")]);
    }
    // The sandbox holds another device, so it says nothing of this pod.
    story.unknown = set(&[B]);
    for _ in 0..2 {
        story.poll_with(Some(&[pod("a/vm", &[]), pod(OTHER, &[])]), Some(&[]), &[]);
    }
    story.expect(&[]);
}

#[test]
fn sandbox_of_an_unknown_pod_becomes_no_assignment() {
    let mut story = Story::new();
    story.adopt = true;
    story.unknown = set(&[B]);
    story.poll(Some(&[pod(OTHER, &[])]), Some(&[entry("u1", &[A])]));
    story.expect(&[(A, "u1")]);
}

#[test]
fn kept_checkpoint_shows_which_unnamed_pods_have_ended() {
    let holders = [holds("u1", &[A])];
    let other = [entry("u2", &[B])];
    let with_other = [pod(OTHER, &[B])];
    let begin = || {
        let mut story = Story::new();
        story.poll(None, Some(&[entry("u1", &[A]), other[0].clone()]));
        story.restart_kubelet();
        story
    };
    let mut story = begin();
    for _ in 0..2 {
        story.poll_with(Some(&with_other), Some(&other), &holders);
    }
    story.expect(&[(B, OTHER)]);
    // The same after a restart of the plugin.
    let mut story = begin();
    story.restart();
    for _ in 0..2 {
        story.poll_with(Some(&with_other), Some(&other), &holders);
    }
    story.expect(&[(B, OTHER)]);
    // Not so if the checkpoint was lost and the other pod was allocated its device again.
    for polled in [true, false] {
        let mut story = begin();
        if polled {
            story.poll(None, Some(&[]));
        }
        story.allocate(&[B]);
        for _ in 0..3 {
            story.poll_with(Some(&with_other), Some(&other), &holders);
            assert!(story.assigned().contains(&(A.to_owned(), "pod u1".to_owned())));
        }
    }
    // Nor if an earlier kubelet lost the checkpoint before the other pod came.
    let mut story = Story::new();
    story.poll(None, Some(&[entry("u1", &[A])]));
    for _ in 0..2 {
        story.restart_kubelet();
        story.poll_with(None, Some(&other), &holders);
    }
    for _ in 0..3 {
        story.poll_with(Some(&with_other), Some(&other), &holders);
        story.expect(&[(A, "u1"), (B, OTHER)]);
    }
}

#[test]
fn listed_pod_keeps_devices_after_a_lost_checkpoint() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.restart_kubelet();
    for _ in 0..5 {
        story.poll(Some(&[pod("a/vm", &[])]), Some(&[]));
    }
    story.expect(&[(A, "a/vm")]);
    assert!(story.ledger.assignments()[0].may_be_lost());
    assert_eq!(story.ledger.assignments()[0].confirmed, Some(story.now));
    for _ in 0..2 {
        story.poll(Some(&[pod(OTHER, &[])]), Some(&[]));
    }
    story.expect(&[]);
}

#[test]
fn recreated_container_leaves_other_containers_theirs() {
    let two = |compute: &[&str], second: &[&str]| {
        let mut listed = pod("a/vm", compute);
        if !second.is_empty() {
            listed.devices.insert(("second".into(), R.into()), set(second));
        }
        listed
    };
    let second = CheckpointEntry { container: "second".into(), ..entry("u1", &[B]) };
    let mut story = Story::new();
    story.poll(Some(&[two(&[A], &[B])]), Some(&[entry("u1", &[A]), second]));
    story.expect(&[(A, "a/vm"), (B, "a/vm")]);
    const NEW: &str = "0000:03:00.0";
    story.restart_kubelet();
    for _ in 0..3 {
        story.poll(Some(&[two(&[NEW], &[])]), Some(&[entry("u1", &[NEW])]));
    }
    story.expect(&[(B, "a/vm"), (NEW, "a/vm")]);
}

#[test]
fn short_list_of_a_starting_kubelet_ends_nothing() {
    let checkpoint = [entry("u1", &[A]), entry("u2", &[B])];
    let begin = |pods: &[ListedPod]| {
        let mut story = Story::new();
        story.poll(Some(pods), Some(&checkpoint));
        story.restart_kubelet();
        story.starting = true;
        story
    };
    let both = [pod("a/vm", &[A]), pod("b/vm", &[B])];
    for checkpoint in [&checkpoint[..], &checkpoint[1..]] {
        let mut story = begin(&both);
        for _ in 0..5 {
            story.poll(Some(&both[1..]), Some(checkpoint));
        }
        story.expect(&[(A, "a/vm"), (B, "b/vm")]);
        story.starting = false;
        for _ in 0..2 {
            story.poll(Some(&both[1..]), Some(&checkpoint[checkpoint.len() - 1..]));
        }
        story.expect(&[(B, "b/vm")]);
    }
    // Without a name from an earlier list.
    let mut story = begin(&both[1..]);
    for _ in 0..5 {
        story.poll(Some(&both[1..]), Some(&checkpoint));
    }
    story.expect(&[(A, "u1"), (B, "b/vm")]);
}

#[test]
fn memory_survives_our_restart_and_a_lost_checkpoint() {
    let mut story = Story::new();
    story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.restart();
    story.restart_kubelet();
    for _ in 0..3 {
        story.poll(Some(&[pod("a/vm", &[])]), Some(&[]));
    }
    story.expect(&[(A, "a/vm")]);
}
