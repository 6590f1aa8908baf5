//! Holders that `serve` finds in /proc: as evidence, and under a load that a local user makes.

use crate::common::{H100, Serve, device, expect, kubelet, offered};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use vfio_sim_node::{Hold, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

#[tokio::test]
async fn starting_vm_is_held_by_its_holder_without_a_probe() {
    let (node, kubelet, _serve) = offered(&[]).await;
    let opens = node.opens(51);
    let vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) }).unwrap();
    expect(&kubelet, "held", |state| state.capacity(H100).allocatable == 7).await;
    let held = device(&node, GPU);
    assert_eq!(held["health"], "Unhealthy", "{held}");
    assert!(held["reason"].as_str().unwrap().contains(&format!("held by pid {}", vm.pid())), "{held}");
    assert_eq!(node.opens(51), opens, "the group was probed");
    vm.kill();
    expect(&kubelet, "free", |state| state.capacity(H100).allocatable == 8).await;
}

/// A process with many descriptors. It is killed when this is dropped.
struct Crowd(Child);

impl Crowd {
    fn start(node: &Node, descriptors: u32) -> Self {
        let script =
            "i=3; while [ $i -lt $0 ]; do eval \"exec $i</dev/null\"; i=$((i+1)); done; echo; read line";
        let mut bash = Command::new("bash");
        bash.args(["-c", script, &descriptors.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = bash.spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line)
            .unwrap();
        let pid = child.id();
        symlink(format!("/proc/{pid}"), node.root().join(format!("proc/{pid}"))).unwrap();
        Self(child)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn crowd_of_descriptors_hides_no_holder() {
    let node = Node::with_eight_gpus().unwrap();
    let crowd: Vec<Crowd> = (0..10).map(|_| Crowd::start(&node, 900)).collect();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "held", |state| state.capacity(H100).allocatable == 7).await;
    // A bind and an unbind are reported whether or not the search is over.
    node.unbind(OTHER).unwrap();
    expect(&kubelet, "unbound", |state| state.capacity(H100).capacity == 7).await;
    node.bind(OTHER, "vfio-pci").unwrap();
    expect(&kubelet, "bound", |state| state.capacity(H100).capacity == 8).await;
    let mut named = device(&node, GPU);
    while named["holders"][0]["pid"] != vm.pid() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        named = device(&node, GPU);
    }
    vm.kill();
    expect(&kubelet, "free", |state| state.capacity(H100).allocatable == 8).await;
    drop(crowd);
}
