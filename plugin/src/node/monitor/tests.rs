//! Tests of the monitor's loop without its thread.

use super::*;
use crate::cli::Cli;
use crate::problems::Problems;
use allocation_counter::measure;
use clap::Parser;
use vfio_sim_node::{Node, VmSpec};

const GPU: &str = "0000:1b:00.0";

fn config(node: &Node, interval: &str) -> Config {
    let path = |option: &str, path: std::path::PathBuf| format!("--{option}={}", path.display());
    // A name that cannot be read is looked up again and again.
    node.write("pci.ids", "10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n").unwrap();
    let cli = Cli::parse_from([
        "vfio-device-plugin".to_owned(),
        format!("--interval={interval}"),
        path("pci-ids", node.root().join("pci.ids")),
        path("root", node.root().to_owned()),
        path("kubelet-dir", node.kubelet_dir()),
        path("pod-resources", node.pod_resources_socket()),
        path("run-dir", node.run_dir()),
        path("cdi-dir", node.root().join("cdi")),
    ]);
    let mut config = cli.config;
    config.read_pools().unwrap();
    config
}

fn run_dir(node: &Node) -> RunDir {
    RunDir::of_serve(&node.run_dir(), &Problems::default())
}

/// Returns a monitor of a node that has published a snapshot and knows the holder of [`GPU`].
fn settled(node: &Node) -> (MonitorHandle, MonitorLoop) {
    let (handle, mut monitor_loop) =
        MonitorHandle::prepare(&config(node, "50ms"), &run_dir(node), std::iter::empty(), None).unwrap();
    handle.set_restored(AssignedDevices::default());
    handle.set_assigned(AssignedDevices::default());
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_known = |snapshot: &NodeSnapshot| {
        let group = snapshot.get(GPU.parse().unwrap()).and_then(|device| device.group.as_ref());
        group.is_some_and(|group| !group.holders.is_empty())
    };
    while !handle.snapshots.borrow().as_deref().is_some_and(is_known) {
        assert!(Instant::now() < deadline, "no holder");
        monitor_loop.pass();
        std::thread::sleep(Duration::from_millis(2));
    }
    (handle, monitor_loop)
}

#[test]
fn pass_without_a_change_allocates_and_publishes_nothing() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let (handle, mut monitor_loop) = settled(&node);
    let mut passes = |count| {
        for _ in 0..count {
            std::thread::sleep(Duration::from_millis(60));
            monitor_loop.pass();
        }
    };
    passes(5);
    let mut snapshots = handle.snapshots.clone();
    snapshots.mark_unchanged();
    let counted = measure(|| passes(20));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert!(!snapshots.has_changed().unwrap(), "a snapshot without a change wakes other tasks");
}

#[test]
fn only_groups_with_an_offered_device_are_probed() {
    let node = Node::with_eight_gpus().unwrap();
    let other = vfio_sim_node::Function::new("0000:f2:00.0", 77).with_driver(Some("vfio-pci"));
    node.add(other).unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let _monitor = settled(&node);
    assert_eq!(node.opens(77), 0, "the group of a network card was opened");
    assert!(node.opens(52) > 0, "no offered group was probed at the start");
}

#[test]
fn device_bound_during_a_pass_is_watched_after_it() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let (first, second) = ("0000:bd:00.0", "0000:ce:00.0");
    let (handle, mut monitor_loop) = settled(&node);
    // The bind comes at another moment of each pass. No group is left unwatched at any of them.
    for delay in (0..1000).step_by(20) {
        for address in [first, second] {
            node.unbind(address).unwrap();
        }
        handle.check_now();
        monitor_loop.pass();
        node.bind(first, "vfio-pci").unwrap();
        handle.check_now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(delay));
                node.bind(second, "vfio-pci").unwrap();
            });
            monitor_loop.pass();
        });
        let watched = &monitor_loop.watched_groups;
        let mut groups = monitor_loop.sources.watch.monitor().groups().iter().map(|group| group.id);
        assert!(groups.all(|group| watched.contains(&group)), "{delay} us: only {watched:?} are watched");
    }
}
