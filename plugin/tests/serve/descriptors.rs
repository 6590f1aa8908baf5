//! `serve` with fewer descriptors than the node has functions on vfio-pci, and without any left.

use crate::common::{H100, device, expect, kubelet, program};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use vfio_sim_node::{Function, Node};

const GPU: &str = "0000:1b:00.0";
/// Soft and hard limit of the descriptors of `serve`.
const LIMIT: &str = "64";
const OTHERS: u32 = 120;

struct Limited(Child);

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `serve` with these arguments of `ulimit`.
fn start(node: &Node, limits: &str) -> Limited {
    let serve = program(node, &["serve"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limits}; exec \"$0\" \"$@\"")]);
    shell.arg(serve.get_program()).args(serve.get_args());
    Limited(shell.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn node() -> Node {
    let node = Node::with_eight_gpus().unwrap();
    for index in 0..OTHERS {
        let address = format!("0001:{:02x}:{:02x}.0", index / 32, index % 32);
        node.add(Function::new(&address, 1000 + index).with_driver(Some("vfio-pci"))).unwrap();
    }
    node
}

#[tokio::test]
async fn unbind_is_reported_with_more_functions_than_descriptors() {
    let node = node();
    let kubelet = kubelet(&node).await;
    let _serve = start(&node, &format!("-n {LIMIT}"));
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    node.unbind(GPU).unwrap();
    expect(&kubelet, "unbound", |state| state.capacity(H100).capacity == 7).await;
    node.bind(GPU, "vfio-pci").unwrap();
    expect(&kubelet, "bound", |state| state.capacity(H100).allocatable == 8).await;
    assert_eq!(device(&node, GPU)["health"], "Healthy");
}

#[tokio::test]
async fn unbind_is_reported_without_any_descriptor_left() {
    let node = node();
    let kubelet = kubelet(&node).await;
    let serve = start(&node, &format!("-n {LIMIT}"));
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    // Each client that is accepted costs a descriptor, until none is left.
    let sockets = std::fs::read_dir(node.kubelet_dir()).unwrap().flatten().map(|entry| entry.path());
    let socket = sockets.into_iter().find(|path| path.to_string_lossy().contains("/vfio-")).unwrap();
    let clients: Vec<UnixStream> = (0..100).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    node.unbind(GPU).unwrap();
    expect(&kubelet, "unbound", |state| state.capacity(H100).capacity == 7).await;
    node.bind(GPU, "vfio-pci").unwrap();
    drop(clients);
    expect(&kubelet, "bound", |state| state.capacity(H100).allocatable == 8).await;
    assert_eq!(device(&node, GPU)["health"], "Healthy", "the status socket answers again");
    drop(serve);
}

#[tokio::test]
async fn soft_limit_of_descriptors_is_raised() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let serve = start(&node, "-S -n 64");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", serve.0.id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut limits = line.split_whitespace();
    assert_eq!(limits.next(), limits.next(), "{line}");
}
