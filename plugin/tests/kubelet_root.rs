//! Tests `--kubelet-root`: the paths of the kubelet that the plugin derives from it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, PATIENCE, expect};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::{Kubelet, Node};

/// Roots of kubelets: that of k0s, that of MicroK8s behind its link, one in the data directory of RKE2, and one on a data disk.
const ROOTS: [&str; 4] = [
    "var/lib/k0s/kubelet",
    "var/snap/microk8s/common/var/lib/kubelet",
    "var/lib/rancher/rke2/agent/kubelet",
    "var/data/kubelet",
];

/// Returns the program with a kubelet's root directory and neither of the paths below it.
fn program(node: &Node, command: &str, root: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
    program.arg(command).arg("--root").arg(node.root()).arg("--run-dir").arg(node.run_dir());
    program.args(["--interval", "200ms", "--assignments-interval", "200ms", "--pci-ids", "/dev/null"]);
    program.env("VFIO_DEVICE_PLUGIN_KUBELET_ROOT", root).stdin(Stdio::null());
    program
}

/// A running `serve`, killed when this is dropped.
struct Serve(std::process::Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `list --json` shows a pod by its name, which only pod resources has.
async fn expect_pod(node: &Node, root: &Path, pod: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = program(node, "list", root).arg("--json").output().unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut devices = list["devices"].as_array().unwrap().iter();
        if devices.any(|device| device["assignment"]["pod"] == pod) {
            return;
        }
        assert!(Instant::now() < deadline, "{}: {list}", root.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn root_with_both_sockets_needs_no_other_option() {
    let node = Node::with_eight_gpus().unwrap();
    let root = node.root().join("var/lib/kubelet");
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    let _serve = Serve(program(&node, "serve", &root).spawn().unwrap());
    expect(&kubelet, "eight", |state| state.capacity(H100).allocatable == 8).await;
    let _pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    expect_pod(&node, &root, "vm-1").await;
}

#[tokio::test]
async fn pods_are_named_with_the_root_of_each_distribution() {
    for name in ROOTS {
        let node = Node::with_eight_gpus().unwrap();
        let root = node.root().join(name);
        let socket = root.join("pod-resources/kubelet.sock");
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        // As in these distributions, the directory for device plugins is elsewhere.
        let kubelet = Kubelet::start(&node.kubelet_dir(), &socket).await.unwrap();
        let mut serve = program(&node, "serve", &root);
        let _serve = Serve(serve.arg("--kubelet-dir").arg(node.kubelet_dir()).spawn().unwrap());
        expect(&kubelet, name, |state| state.capacity(H100).allocatable == 8).await;
        let _pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
        expect_pod(&node, &root, "vm-1").await;
    }
}

#[test]
fn doctor_names_the_paths_of_a_root() {
    let node = Node::with_eight_gpus().unwrap();
    let root = node.root().join("var/lib/k0s/kubelet");
    let directory = root.join("device-plugins");
    std::fs::create_dir_all(&directory).unwrap();
    let _kubelet = std::os::unix::net::UnixListener::bind(directory.join("kubelet.sock")).unwrap();
    let output = program(&node, "doctor", &root).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("{}/kubelet_internal_checkpoint", directory.display())), "{text}");
    assert!(text.contains("set --kubelet-root to the kubelet's --root-dir"), "{text}");
}
