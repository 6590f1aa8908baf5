//! Plays stories with stale answers: the kubelet repeats an answer of Allocate that names another device's node.

use super::*;
use crate::assignments::observation::CheckpointEntry;

const OF_B: &str = "stale answer of another pod: the kubelet starts pod a/vm with /dev/vfio/52, and 0000:01:00.0 is \
                    /dev/vfio/51 now; delete that pod";
const OWN: &str = "warning: stale answer: the kubelet starts pod a/vm with /dev/vfio/52, and this device is /dev/vfio/51 now; \
                   delete that pod";

impl Story {
    /// The kubelet lists pods with these devices, and its checkpoint has the nodes of their answers.
    fn stores(&mut self, pods: &[(&str, &str, &str)]) -> &mut Self {
        let mut listed = vec![ListedPod { full_name: "a/other".to_owned(), devices: BTreeMap::new() }];
        let mut entries = Vec::new();
        for (name, id, node) in pods {
            let devices = BTreeMap::from([(("compute".to_owned(), R.to_owned()), set(&[id]))]);
            listed.push(ListedPod { full_name: format!("a/{name}"), devices });
            entries.push(CheckpointEntry {
                pod_uid: format!("uid-{name}"),
                container: "compute".to_owned(),
                resource: R.to_owned(),
                ids: set(&[id]),
                response_ids: set(&[id]),
                nodes: set(&["/dev/vfio/vfio", node]),
                ..CheckpointEntry::default()
            });
        }
        self.ledger.observe(&Observation {
            pods: Some(&listed),
            checkpoint: Some(&entries),
            settling: SETTLING,
            ..Observation::at(self.now)
        });
        self
    }
}

#[test]
fn device_of_the_stale_node_is_unhealthy_until_the_pod_is_gone() {
    let mut story = Story::new();
    story.sees(A, Free).sees(B, Free).stores(&[("vm", A, "/dev/vfio/52")]);
    story.reports(&[(A, OWN), (B, OF_B)]);
    assert!(story.tracker.stale_answer_of_another_pod(id(B)).is_some());
    // A restart of the plugin finds it again, with its state file and without.
    story.restarts().reports(&[(A, OWN), (B, OF_B)]);
    story.ends_the_pod().reports(&[(A, ""), (B, "")]);
    assert!(story.tracker.stale_answer_of_another_pod(id(B)).is_none());
}

#[test]
fn assigned_device_of_the_stale_node_is_only_warned_about() {
    let mut story = Story::new();
    let warning = format!("warning: {OF_B}");
    story.sees(A, Free).sees(B, Free).stores(&[("vm", A, "/dev/vfio/52"), ("two", B, "/dev/vfio/52")]);
    story.reports(&[(A, OWN), (B, &warning)]);
    // Two pods have each other's node: each device has the warning about its own pod.
    story.stores(&[("vm", A, "/dev/vfio/52"), ("two", B, "/dev/vfio/51")]);
    let own_of_b = OWN.replace("a/vm", "a/two").replace("52", "xx").replace("51", "52").replace("xx", "51");
    story.reports(&[(A, OWN), (B, &own_of_b)]);
    // The answer of the first pod is gone with it, and B is a device of the second still.
    story.stores(&[("two", B, "/dev/vfio/52")]).stores(&[("two", B, "/dev/vfio/52")]);
    story.reports(&[(A, ""), (B, "")]);
}

#[test]
fn new_answer_for_the_same_devices_ends_the_warning() {
    let mut story = Story::new();
    story.sees(A, Free).sees(B, Free).stores(&[("vm", A, "/dev/vfio/52")]).reports(&[(A, OWN), (B, OF_B)]);
    story.stores(&[("vm", A, "/dev/vfio/51")]).reports(&[(A, ""), (B, "")]);
}

#[test]
fn held_device_of_the_stale_node_names_the_stale_answer() {
    let mut story = Story::new();
    story.sees(A, Free).sees(B, Held).stores(&[("vm", A, "/dev/vfio/52")]).at(60);
    story.reports(&[(A, OWN), (B, OF_B)]);
}

#[test]
fn answer_is_remembered_when_the_checkpoint_cannot_be_read() {
    let mut story = Story::new();
    story.sees(A, Free).sees(B, Free).stores(&[("vm", A, "/dev/vfio/52")]).lists(&[A]);
    story.reports(&[(A, OWN), (B, OF_B)]);
    let text = serde_json::to_vec(&story.ledger).unwrap();
    story.ledger = serde_json::from_slice(&text).unwrap();
    story.restarts().reports(&[(A, OWN), (B, OF_B)]);
}
