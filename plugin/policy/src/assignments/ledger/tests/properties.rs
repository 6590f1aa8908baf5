//! What holds for every order of observations.

use super::*;
use crate::assignments::lookup::steps;
use proptest::prelude::*;

proptest! {
    /// A pod that every list names keeps its device, in every order of observations, with and without the checkpoint.
    #[test]
    fn listed_pod_never_loses_its_device(
        steps in prop::collection::vec((0..6, 0..4, any::<bool>(), any::<bool>()), 0..40)
    ) {
        let mut story = Story::new();
        story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
        // Whether the kubelet started without its checkpoint, and so does not know the device.
        let mut lost = false;
        for (pods, checkpoint, starting, is_new) in steps {
            (story.starting, story.is_new) = (starting, is_new);
            let pods: Option<Vec<ListedPod>> = match pods {
                0 => None,
                1 => Some(vec![]),
                2 => {
                    if !lost {
                        story.restart_kubelet();
                        lost = true;
                    }
                    Some(vec![pod("a/vm", &[])])
                }
                3 => {
                    story.restart();
                    None
                }
                // The container was allocated the device again.
                4 => {
                    lost = false;
                    Some(vec![pod("a/vm", &[A]), pod("b/vm", &[B])])
                }
                _ => {
                    lost = false;
                    Some(vec![pod("a/vm", &[A]), pod(OTHER, &[])])
                }
            };
            let checkpoint: Option<Vec<CheckpointEntry>> = match checkpoint {
                0 => None,
                _ if lost => Some(vec![]),
                1 => Some(vec![entry("u1", &[A])]),
                _ => Some(vec![entry("u1", &[A]), entry("u2", &[B])]),
            };
            story.poll(pods.as_deref(), checkpoint.as_deref());
            prop_assert!(story.assigned().iter().any(|(id, _)| id == A), "{:?}", story.assigned());
        }
    }

    /// A pod that no list names loses its device after five lists, or after two if the checkpoint agrees.
    #[test]
    fn ended_pod_loses_its_device(checkpoints in prop::collection::vec(0..3, 5..9)) {
        let mut story = Story::new();
        story.poll(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
        let mut is_rewritten = false;
        let mut agreed = 0;
        for checkpoint in checkpoints {
            // A checkpoint that was written without the pod never names it again.
            story.is_new = checkpoint == 1 && !is_rewritten;
            is_rewritten |= checkpoint == 1;
            let checkpoint: Option<Vec<CheckpointEntry>> = match checkpoint {
                0 => None,
                _ if is_rewritten => Some(vec![]),
                _ => Some(vec![entry("u1", &[A])]),
            };
            agreed += u32::from(checkpoint.as_ref().is_none_or(Vec::is_empty));
            story.poll(Some(&[pod(OTHER, &[])]), checkpoint.as_deref());
            prop_assert!(agreed < 2 || story.assigned().is_empty());
        }
        prop_assert!(story.assigned().is_empty());
    }
}

/// Counts the steps of a poll that shows this many pods: at the first poll, at a later one, after a
/// restart of the kubelet, and when all pods have ended.
fn costs(count: usize) -> [usize; 4] {
    let id = |number: usize| format!("0000:{:02x}:{:02x}.{}", number >> 8, number >> 3 & 31, number & 7);
    let pods: Vec<ListedPod> =
        (0..count).map(|number| pod(&format!("a/vm-{number}"), &[&id(number)])).collect();
    let uid = |number: usize| format!("u{number}");
    let entries: Vec<CheckpointEntry> =
        (0..count).map(|number| entry(&uid(number), &[&id(number)])).collect();
    let holders: Vec<PodHolds> = (0..count).map(|number| holds(&uid(number), &[&id(number)])).collect();
    let mut story = Story::new();
    story.adopt = true;
    steps::take();
    let cost = |story: &mut Story, pods: &[ListedPod]| {
        story.poll_with(Some(pods), Some(&entries), &holders);
        steps::take()
    };
    let (first, later) = (cost(&mut story, &pods), cost(&mut story, &pods));
    story.restart_kubelet();
    story.starting = true;
    let restarted = cost(&mut story, &pods);
    story.starting = false;
    assert_eq!(story.assigned().len(), count);
    let ended = cost(&mut story, &[pod(OTHER, &[])]);
    [first, later, restarted, ended]
}

#[test]
fn poll_costs_linear_work() {
    let (some, more) = (costs(512), costs(2048));
    for (some, more) in some.into_iter().zip(more) {
        assert!(some > 0 && more <= 4 * some + 64, "{some} steps for 512 pods, {more} for 2,048");
    }
}
