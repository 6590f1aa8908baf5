//! Tests the snapshot on a simulated node, with real processes that hold groups.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::os::unix::fs::symlink;
use std::time::Duration;
use vfio_probe::device::Detail;
use vfio_probe::holders::Via;
use vfio_probe::{Evidence, GroupId, GroupSnapshot, InPod, Occupancy, PidNamespace, Prober, Root, Snapshot};
use vfio_sim_node::{Function, Hold, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const DEADLINE: Duration = Duration::from_secs(10);

fn hold(node: &Node, hold: Hold) -> vfio_sim_node::Vm {
    node.start_vm(&VmSpec { hold, ..VmSpec::foreign(&[GPU]) }).unwrap()
}

fn take(node: &Node, probe: bool) -> Snapshot {
    let root = Root::open(node.root()).unwrap();
    let prober = Prober::new(root.clone());
    root.snapshot(Detail::Full, probe.then_some((&prober, DEADLINE))).unwrap()
}

fn state(group: &GroupSnapshot) -> (Occupancy, Evidence) {
    (group.occupancy, group.evidence)
}

#[test]
fn process_with_only_the_group_open_holds_it() {
    let node = Node::with_eight_gpus().unwrap();
    let vm = hold(&node, Hold::GroupOnly);
    let snapshot = take(&node, false);
    let group = snapshot.group(GroupId(51)).unwrap();
    assert_eq!(state(group), (Occupancy::Held, Evidence::Holder));
    assert_eq!((group.holders[0].pid, group.holders[0].via), (vm.pid(), Via::Group));
    assert_eq!(group.holders[0].container.in_pod, InPod::No);
    assert_eq!(state(snapshot.group(GroupId(52)).unwrap()), (Occupancy::Free, Evidence::Enable));
    assert!(snapshot.coverage.is_complete(), "{:?}", snapshot.coverage);
    assert_eq!((snapshot.devices.len(), snapshot.groups.len(), snapshot.errors.len()), (8, 8, 0));
    let opens: u64 = (51..59).map(|group| node.opens(group)).sum();
    assert_eq!(opens, 0, "a snapshot without probes opens no device node");
    vm.kill();
    let freed = take(&node, false);
    assert_eq!(state(freed.group(GroupId(51)).unwrap()), (Occupancy::Free, Evidence::Enable));
}

#[test]
fn probe_after_the_search_is_the_better_evidence() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = hold(&node, Hold::GroupOnly);
    let snapshot = take(&node, true);
    assert_eq!(state(snapshot.group(GroupId(51)).unwrap()), (Occupancy::Held, Evidence::Open));
    assert_eq!(state(snapshot.group(GroupId(52)).unwrap()), (Occupancy::Free, Evidence::Open));
}

#[test]
fn holder_found_in_a_foreign_namespace_counts() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = hold(&node, Hold::GroupOnly);
    let first = node.root().join("proc/1/ns/pid");
    std::fs::remove_file(&first).unwrap();
    symlink("pid:[4026532178]", &first).unwrap();
    let snapshot = take(&node, false);
    assert_eq!(snapshot.coverage.pid_namespace, PidNamespace::Foreign);
    assert!(!snapshot.coverage.is_complete());
    assert_eq!(state(snapshot.group(GroupId(51)).unwrap()), (Occupancy::Held, Evidence::Holder));
}

#[test]
fn unreadable_proc_is_an_error_and_proves_nothing() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = hold(&node, Hold::Device);
    std::fs::rename(node.root().join("proc"), node.root().join("elsewhere")).unwrap();
    let snapshot = take(&node, false);
    assert_eq!(state(snapshot.group(GroupId(51)).unwrap()), (Occupancy::Held, Evidence::Enable));
    assert_eq!((snapshot.coverage.processes, snapshot.coverage.is_complete()), (0, false));
    assert_eq!(snapshot.errors[0].what, "proc");
}

#[test]
fn every_offender_of_a_group_is_named() {
    let node = Node::with_eight_gpus().unwrap();
    for (function, driver) in
        [("0000:1b:00.1", "snd_hda_intel"), ("0000:1b:00.2", "xhci_hcd"), ("0000:1b:00.3", "pci-stub")]
    {
        node.add(Function::new(function, 51).with_driver(Some(driver))).unwrap();
    }
    let snapshot = take(&node, false);
    let group = snapshot.group(GroupId(51)).unwrap();
    let offenders: Vec<&str> = group.offenders().map(|member| member.name.as_str()).collect();
    assert_eq!(offenders, ["0000:1b:00.1", "0000:1b:00.2"]);
    let root = Root::open(node.root()).unwrap();
    let summary = root.group(GroupId(51), &mut vfio_probe::Buffer::new()).unwrap();
    assert_eq!((summary.members, summary.offenders), (4, 2));
}
