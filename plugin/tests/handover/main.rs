//! Hand-overs between two processes of the plugin, with a simulated kubelet that keeps its clients as kubelets up to 1.36 or from 1.37 on do.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod peers;
mod process;
mod ready;
mod reload;
mod succession;

use common::{H100, expect, kubelet, list};
use process::{Process, role};
use vfio_sim_node::Node;
use vfio_sim_node::kubelet::Version;

/// The devices of the node.
const GPUS: usize = 8;
const VERSIONS: [Version; 2] = [Version::UpTo136, Version::From137];

/// Returns the devices that `serve` has assigned to a pod.
fn pod_of(node: &Node, uid: &str) -> Vec<String> {
    let devices = list(node).into_iter().filter(|device| device["assignment"]["uid"] == uid);
    devices.map(|device| device["address"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn hand_over_leaves_no_gap_and_the_old_process_waits() {
    for version in VERSIONS {
        let node = Node::with_eight_gpus().unwrap();
        let kubelet = kubelet(&node).await;
        kubelet.set_version(version);
        let old = Process::start(&node, "old");
        expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
        let pod = kubelet.admit("vm-1", H100, 2).await.unwrap();
        let new = Process::start(&node, "new");
        new.wait_for("took over").await;
        old.wait_for("waiting for SIGTERM").await;
        let state = kubelet.state();
        let logs = || format!("{version:?}\n{}\n\n{}", old.log(), new.log());
        assert_eq!((state.gaps, state.capacity(H100).allocatable), (0, 8), "{}", logs());
        assert_eq!(state.clients_of(H100), [state.resources[H100].endpoint.clone()], "{}", logs());
        let second = kubelet.admit("vm-2", H100, 6).await.unwrap();
        assert!(second.devices.iter().all(|device| !pod.devices.contains(device)));
        assert_eq!(role(&node), ("active".to_owned(), new.pid()));
        drop(old);
        expect(&kubelet, "the old one is gone", |state| state.capacity(H100).allocatable == 8).await;
        assert_eq!(kubelet.state().gaps, 0);
        drop(new);
        expect(&kubelet, "the kubelet notices the end", |state| state.capacity(H100).allocatable == 0).await;
    }
}
