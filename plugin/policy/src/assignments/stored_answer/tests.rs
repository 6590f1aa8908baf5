//! Stale answers: one test for each way in which numbers change, and for each answer that must not count as stale.

use super::stale::{Mismatch, StaleAnswer, stale_answers};
use super::*;
use crate::assignments::observation::CheckpointEntry;
use crate::assignments::record::{Assignment, PodRef, Source};
use crate::device::{DeviceState, NodeSnapshot, SpecialNodes};
use crate::testing::device_state;
use std::time::Instant;
use vfio_probe::{GroupId, Occupancy, Viability};

const A: &str = "0000:1b:00.0";
const B: &str = "0000:3d:00.0";
const PEER: &str = "0000:1b:00.1";
const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const R: &str = "nvidia.com/GPU";

fn bound(id: &str, group: u32, cdev: Option<u32>) -> DeviceState {
    let mut state = device_state(id, group, Occupancy::Free, Instant::now(), Viability::Viable, false);
    state.device.cdev = cdev;
    state
}

fn node(devices: &[DeviceState]) -> NodeSnapshot {
    let mut devices = devices.to_vec();
    devices.sort_by_key(|state| state.device.id);
    NodeSnapshot { devices: devices.into(), ..NodeSnapshot::default() }
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// A pod that was allocated these ids with these nodes and CDI names.
fn pod(uid: &str, ids: &[&str], answer: &[&str]) -> Assignment {
    let (names, nodes): (BTreeSet<_>, BTreeSet<_>) =
        set(answer).into_iter().partition(|text| text.contains('='));
    let entry = CheckpointEntry { nodes, cdi_names: names, ..CheckpointEntry::default() };
    let pod = PodRef { uid: Some(uid.to_owned()), full_name: None };
    Assignment { answer: entry.answer(), ..Assignment::new(pod, R, set(ids), Source::Kubelet) }
}

/// The differences in words: `device stored -> now: owners`.
fn stale(pods: &[Assignment], snapshot: &NodeSnapshot) -> Vec<String> {
    let words = |stale: &StaleAnswer<'_>| {
        let Mismatch { device, stored, now, owners } = &stale.mismatch;
        let now = now.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        let owners: Vec<String> = owners.iter().map(ToString::to_string).collect();
        format!("{device} {stored} -> {now}: {}", owners.join(" "))
    };
    stale_answers(pods, snapshot).iter().map(words).collect()
}

#[track_caller]
fn check(answer: &[&str], devices: &[DeviceState], expected: &[&str]) {
    assert_eq!(stale(&[pod("u", &[A], answer)], &node(devices)), expected, "{answer:?}");
}

#[test]
fn group_number_that_is_another_devices_now_is_stale() {
    let now = [bound(A, 51, None), bound(B, 52, None)];
    check(
        &["/dev/vfio/vfio", "/dev/vfio/52"],
        &now,
        &["0000:1b:00.0 /dev/vfio/52 -> /dev/vfio/51: 0000:3d:00.0"],
    );
    check(&["/dev/vfio/vfio", "/dev/vfio/51"], &now, &[]);
}

#[test]
fn group_number_that_belongs_to_nothing_is_stale() {
    check(&["/dev/vfio/52"], &[bound(A, 51, None)], &["0000:1b:00.0 /dev/vfio/52 -> /dev/vfio/51: "]);
    check(
        &["/dev/vfio/noiommu-0"],
        &[bound(A, 51, None)],
        &["0000:1b:00.0 /dev/vfio/noiommu-0 -> /dev/vfio/51: "],
    );
}

#[test]
fn group_without_an_iommu_is_current_by_its_number() {
    check(&["/dev/vfio/noiommu-51"], &[bound(A, 51, None)], &[]);
}

#[test]
fn form_of_a_group_node_counts_where_it_was_read() {
    let mut now = node(&[bound(A, 51, None), bound(B, 52, None)]);
    now.special = Some(SpecialNodes { no_iommu: BTreeSet::from([GroupId(51)]), ..SpecialNodes::default() });
    let pods = |answer: &str| [pod("u", &[A], &[answer])];
    assert_eq!(stale(&pods("/dev/vfio/noiommu-51"), &now), [""; 0]);
    assert_eq!(stale(&pods("/dev/vfio/51"), &now), ["0000:1b:00.0 /dev/vfio/51 -> /dev/vfio/noiommu-51: "]);
    // Group 52 has an IOMMU: /dev/vfio/noiommu-52 belongs to nothing.
    assert_eq!(
        stale(&pods("/dev/vfio/noiommu-52"), &now),
        ["0000:1b:00.0 /dev/vfio/noiommu-52 -> /dev/vfio/noiommu-51: ",]
    );
}

#[test]
fn extended_memory_of_other_gpus_is_stale() {
    let mut now = node(&[bound(A, 51, None), bound(B, 52, None)]);
    let pods = |memory: &str| [pod("u", &[A], &["/dev/vfio/51", memory])];
    assert_eq!(stale(&pods("/dev/egm4"), &now), [""; 0], "it was not read");
    let set = |ids: &[&str]| ids.iter().map(|id| id.parse().unwrap()).collect::<BTreeSet<DeviceId>>();
    let memories = [(4, set(&[A])), (5, set(&[B])), (6, set(&[A, B]))].into();
    now.special = Some(SpecialNodes { memories, ..SpecialNodes::default() });
    assert_eq!(stale(&pods("/dev/egm4"), &now), [""; 0]);
    for memory in ["/dev/egm5", "/dev/egm6"] {
        assert_eq!(stale(&pods(memory), &now), [format!("{A} {memory} -> none: {B}")]);
    }
    assert_eq!(stale(&pods("/dev/egm7"), &now), [format!("{A} /dev/egm7 -> none: ")]);
}

#[test]
fn all_offered_functions_of_the_foreign_group_are_named() {
    let now = [bound(A, 51, None), bound(B, 52, Some(4)), bound("0000:3d:00.1", 52, Some(5))];
    let owners = "0000:3d:00.0 0000:3d:00.1";
    check(&["/dev/vfio/52"], &now, &[&format!("{A} /dev/vfio/52 -> /dev/vfio/51: {owners}")]);
    check(
        &["/dev/vfio/devices/vfio5"],
        &now,
        &[&format!("{A} /dev/vfio/devices/vfio5 -> /dev/vfio/51: {owners}")],
    );
}

#[test]
fn nodes_that_all_devices_share_are_never_stale() {
    check(&["/dev/vfio/vfio", "/dev/iommu"], &[bound(A, 51, Some(0))], &[]);
    check(
        &["/dev/nvidia0", "/dev/vfio/", "/dev/vfio/devices/x", "/dev/vfio/-1"],
        &[bound(A, 51, Some(0))],
        &[],
    );
}

#[test]
fn order_of_binding_makes_cdevs_stale_while_groups_stay() {
    let now = [bound(A, 51, Some(1)), bound(B, 52, Some(0))];
    let answer = ["/dev/iommu", "/dev/vfio/devices/vfio0"];
    check(&answer, &now, &["0000:1b:00.0 /dev/vfio/devices/vfio0 -> /dev/vfio/devices/vfio1: 0000:3d:00.0"]);
    // The answer for QEMU has both kinds.
    let both = ["/dev/vfio/vfio", "/dev/vfio/51", "/dev/iommu", "/dev/vfio/devices/vfio0"];
    check(&both, &now, &["0000:1b:00.0 /dev/vfio/devices/vfio0 -> /dev/vfio/devices/vfio1: 0000:3d:00.0"]);
    check(
        &["/dev/vfio/devices/vfio7"],
        &now,
        &["0000:1b:00.0 /dev/vfio/devices/vfio7 -> /dev/vfio/devices/vfio1: "],
    );
    check(&["/dev/vfio/devices/vfio1"], &now, &[]);
}

#[test]
fn cdev_of_a_group_peer_is_current() {
    let now = [bound(A, 51, Some(1)), bound(PEER, 51, Some(2)), bound(B, 52, Some(0))];
    check(&["/dev/vfio/devices/vfio1", "/dev/vfio/devices/vfio2"], &now, &[]);
    // The two were bound in the other order before: the container has all functions of its group all the same.
    check(&["/dev/vfio/devices/vfio2", "/dev/vfio/devices/vfio1"], &now, &[]);
}

#[test]
fn answer_with_one_cdev_of_a_group_is_current() {
    // As an older plugin may answer for both functions of a group.
    let now = node(&[bound(A, 51, Some(1)), bound(PEER, 51, Some(2)), bound(B, 52, Some(0))]);
    assert_eq!(stale(&[pod("u", &[A, PEER], &["/dev/vfio/devices/vfio1"])], &now), [""; 0]);
    assert_eq!(
        stale(&[pod("u", &[A, PEER], &["/dev/vfio/52"])], &now),
        [
            "0000:1b:00.0 /dev/vfio/52 -> /dev/vfio/51: 0000:3d:00.0",
            "0000:1b:00.1 /dev/vfio/52 -> /dev/vfio/51: 0000:3d:00.0",
        ],
        "both devices are named"
    );
}

#[test]
fn cdi_name_is_stale_only_if_it_names_another_device() {
    let now = [bound(A, 51, None), bound(B, 52, None)];
    check(&["nvidia.com/GPU=0000:1b:00.0"], &now, &[]);
    check(
        &["nvidia.com/GPU=0000:3d:00.0"],
        &now,
        &["0000:1b:00.0 nvidia.com/GPU=0000:3d:00.0 -> /dev/vfio/51: 0000:3d:00.0"],
    );
    check(
        &["nvidia.com/GPU=0000:3d:00.0", "nvidia.com/GPU=0000:1b:00.0", "/dev/vfio/51"],
        &now,
        &["0000:1b:00.0 nvidia.com/GPU=0000:3d:00.0 -> /dev/vfio/51: 0000:3d:00.0"],
    );
    check(&["nvidia.com/gpu=0", "intel.com/VF=0000:3d:00.0"], &now, &[]);
}

#[test]
fn two_pods_can_have_each_others_node() {
    let now = node(&[bound(A, 51, None), bound(B, 52, None)]);
    let pods = [pod("u1", &[A], &["/dev/vfio/52"]), pod("u2", &[B], &["/dev/vfio/51"])];
    assert_eq!(
        stale(&pods, &now),
        [
            "0000:1b:00.0 /dev/vfio/52 -> /dev/vfio/51: 0000:3d:00.0",
            "0000:3d:00.0 /dev/vfio/51 -> /dev/vfio/52: 0000:1b:00.0",
        ]
    );
}

#[test]
fn devices_of_one_container_may_change_places() {
    let now = node(&[bound(A, 52, None), bound(B, 51, None)]);
    assert_eq!(stale(&[pod("u", &[A, B], &["/dev/vfio/51", "/dev/vfio/52"])], &now), [""; 0]);
    let third = bound("0000:4e:00.0", 51, None);
    let now = node(&[bound(A, 52, None), bound(B, 53, None), third]);
    assert_eq!(
        stale(&[pod("u", &[A, B], &["/dev/vfio/51", "/dev/vfio/52"])], &now),
        ["0000:3d:00.0 /dev/vfio/51 -> /dev/vfio/53: 0000:4e:00.0",]
    );
}

#[test]
fn answer_without_the_node_of_a_split_group_is_stale() {
    let now = node(&[bound(A, 51, None), bound(B, 53, None)]);
    assert_eq!(
        stale(&[pod("u", &[A, B], &["/dev/vfio/51"])], &now),
        ["0000:3d:00.0 /dev/vfio/51 -> /dev/vfio/53: ",]
    );
}

#[test]
fn gone_device_protects_the_group_with_its_number() {
    let mut now = node(&[bound(B, 52, None)]);
    now.missing.insert(A.parse().unwrap());
    let pods = |answer: &[&str]| [pod("u", &[A], answer)];
    assert_eq!(stale(&pods(&["/dev/vfio/52"]), &now), ["0000:1b:00.0 /dev/vfio/52 -> none: 0000:3d:00.0"]);
    assert_eq!(stale(&pods(&["/dev/vfio/51"]), &now), [""; 0], "the node belongs to nothing, as the device");
}

#[test]
fn device_on_another_driver_is_compared_by_its_group() {
    let mut now = node(&[bound(B, 52, Some(0))]);
    now.not_offered.push(bound(A, 51, None).device);
    let pods = |answer: &[&str]| [pod("u", &[A], answer)];
    assert_eq!(
        stale(&pods(&["/dev/vfio/52"]), &now),
        ["0000:1b:00.0 /dev/vfio/52 -> /dev/vfio/51: 0000:3d:00.0",]
    );
    assert_eq!(
        stale(&pods(&["/dev/vfio/devices/vfio0"]), &now),
        ["0000:1b:00.0 /dev/vfio/devices/vfio0 -> /dev/vfio/51: 0000:3d:00.0",]
    );
    assert_eq!(stale(&pods(&["/dev/vfio/devices/vfio3"]), &now), [""; 0], "its number is not known");
}

#[test]
fn device_that_could_not_be_read_shows_nothing() {
    let now = node(&[bound(B, 52, None)]);
    assert_eq!(stale(&[pod("u", &[A], &["/dev/vfio/52"])], &now), [""; 0]);
    assert_eq!(stale(&[pod("u", &[A, B], &["/dev/vfio/52", "/dev/vfio/60"])], &now), [""; 0]);
}

#[test]
fn substitute_and_numeric_id_are_compared_by_real_devices() {
    let now = node(&[bound(A, 51, None), bound(B, 52, None)]);
    // The kubelet requested A, and the container has B.
    let substituted = Assignment { device_ids: set(&[B]), ..pod("u", &[A], &["/dev/vfio/52"]) };
    assert_eq!(stale(std::slice::from_ref(&substituted), &now), [""; 0]);
    let moved = Assignment { answer: pod("u", &[A], &["/dev/vfio/51"]).answer, ..substituted };
    assert_eq!(stale(&[moved], &now), ["0000:3d:00.0 /dev/vfio/51 -> /dev/vfio/52: 0000:1b:00.0"]);
    // The id is a group's number; the address is in the answer's environment.
    let older = Assignment { device_ids: set(&[A]), ..pod("u", &["52"], &["/dev/vfio/52"]) };
    assert_eq!(stale(&[older], &now), ["0000:1b:00.0 /dev/vfio/52 -> /dev/vfio/51: 0000:3d:00.0"]);
    // Without an address there is nothing to compare with.
    assert_eq!(stale(&[pod("u", &["52"], &["/dev/vfio/53"])], &now), [""; 0]);
}

#[test]
fn mediated_device_is_compared_like_a_function() {
    let mut mdev = bound(UUID, 70, None);
    mdev.device.kind = vfio_probe::Kind::Mdev;
    let now = node(&[mdev, bound(B, 71, None)]);
    let pods = [pod("u", &[UUID], &["/dev/vfio/71"])];
    assert_eq!(stale(&pods, &now), [format!("{UUID} /dev/vfio/71 -> /dev/vfio/70: {B}")]);
}

#[test]
fn answer_is_read_back_from_its_json() {
    let nodes = ["/dev/vfio/51", "/dev/vfio/noiommu-3", "/dev/vfio/devices/vfio7", "a.b/c=0000:1b:00.0"];
    let answer = pod("u", &[A], &nodes).answer;
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json.as_array().unwrap().len(), nodes.len(), "{json}");
    assert_eq!(serde_json::from_value::<StoredAnswer>(json).unwrap(), answer);
    assert!(serde_json::from_str::<StoredAnswer>(r#"["/dev/null"]"#).is_err());
}

#[test]
fn paths_and_keys_of_other_kinds_are_ignored() {
    for path in ["/dev/vfio/51", "/dev/vfio/noiommu-0", "/dev/vfio/devices/vfio3", "/dev/iommu", "/dev/egm4"]
    {
        assert!(is_vfio_node(path), "{path}");
    }
    for path in ["", "/dev/nvidia0", "/dev/vfio", "/dev/infiniband/uverbs0", "/host/dev/vfio/51"] {
        assert!(!is_vfio_node(path), "{path}");
    }
    assert!(is_cdi_annotation("cdi.k8s.io/vfio-device-plugin_0000-1b-00.0"));
    assert!(!is_cdi_annotation("example.com/cdi.k8s.io"));
}
