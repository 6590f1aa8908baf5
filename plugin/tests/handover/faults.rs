//! Either process is killed or stopped at each of its steps. The other one goes on, and the kubelet's devices come back at once or never
//! leave.

use crate::common::{H100, PATIENCE, expect, kubelet};
use crate::process::{Process, role, wait_until};
use crate::{GPUS, VERSIONS, pod_of};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::{KubeletState, Version};
use vfio_sim_node::{Kubelet, Node};

/// A process of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Old,
    New,
}

/// Starts a hand-over, sends a signal to one side once it has logged a step, and returns everything.
async fn disturbed(
    version: Version,
    side: Side,
    step: u8,
    signal: Signal,
) -> (Node, Kubelet, Process, Process, String) {
    println!("{version:?}: {signal:?} to {side:?} at step {step}");
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    kubelet.set_version(version);
    let old = Process::start(&node, "old");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
    let pod = kubelet.admit("vm-1", H100, 2).await.unwrap();
    let new = Process::start(&node, "new");
    let (process, name) = if side == Side::Old { (&old, "old") } else { (&new, "new") };
    process.wait_for(&format!("side=\"{name}\" step={step}")).await;
    process.signal(signal);
    let uid = pod.pod_uid;
    (node, kubelet, old, new, uid)
}

/// Checks that one process serves, and knows the pod of before.
async fn serves(node: &Node, kubelet: &Kubelet, survivor: &Process, pod: &str) {
    let sockets = format!("vfio-{:x}-", survivor.pid());
    let calls_the_survivor = |state: &KubeletState| {
        let endpoint = &state.resources[H100].endpoint;
        // A stopped process stays a client of a kubelet from 1.37 on.
        let is_client = state.clients_of(H100).contains(endpoint);
        state.capacity(H100).allocatable == GPUS && endpoint.starts_with(&sockets) && is_client
    };
    let found = kubelet.wait_for(PATIENCE * 2, calls_the_survivor).await;
    found.unwrap_or_else(|state| panic!("{:?}\n{}", state.clients_of(H100), survivor.log()));
    let second = kubelet.admit("vm-2", H100, 3).await;
    let second = second.unwrap_or_else(|error| panic!("{error}\n{}", survivor.log()));
    assert_eq!(second.devices.len(), 3);
    let (role, pid) = role(node);
    assert_eq!((role.as_str(), pid), ("active", survivor.pid()), "{}", survivor.log());
    let log = || format!("{:?}\n{}", pod_of(node, pod), survivor.log());
    wait_until(log, || pod_of(node, pod).len() == 2).await;
}

#[tokio::test]
async fn new_process_goes_on_when_the_old_one_is_killed() {
    let kill_at = async |version, step| {
        let (node, kubelet, _old, new, pod) = disturbed(version, Side::Old, step, Signal::KILL).await;
        serves(&node, &kubelet, &new, &pod).await;
    };
    for step in 1..=6 {
        tokio::join!(kill_at(VERSIONS[0], step), kill_at(VERSIONS[1], step));
    }
}

#[tokio::test]
async fn old_process_goes_on_when_the_new_one_is_killed() {
    let kill_at = async |version, step| {
        let (node, kubelet, old, _new, pod) = disturbed(version, Side::New, step, Signal::KILL).await;
        serves(&node, &kubelet, &old, &pod).await;
    };
    for step in 1..=6 {
        tokio::join!(kill_at(VERSIONS[0], step), kill_at(VERSIONS[1], step));
    }
}

/// Waits until a pod can be admitted. `logs` says what has happened.
pub(crate) async fn admits(kubelet: &Kubelet, logs: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE * 4;
    loop {
        let admitted = tokio::time::timeout(PATIENCE * 4, kubelet.admit("vm-3", H100, 1)).await;
        match admitted.unwrap_or_else(|_| panic!("no answer\n{}", logs())) {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "{error}\n{}", logs()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Stops the new process at a step. The old one goes on after its deadline. The new one may ask again when it is continued.
async fn new_stopped(version: Version, step: u8) {
    let (node, kubelet, old, new, pod) = disturbed(version, Side::New, step, Signal::STOP).await;
    let goes_on = async { old.wait_for("hand-over: going on").await };
    let serves_again = async { old.wait_for("serving again").await };
    tokio::select! {
        _ = goes_on => {}
        _ = serves_again => {}
    }
    serves(&node, &kubelet, &old, &pod).await;
    new.signal(Signal::CONT);
    let withdraws = async { new.wait_for("hand-over: withdrew").await };
    let takes_over = async { new.wait_for("took over").await };
    tokio::select! {
        _ = withdraws => {}
        _ = takes_over => {}
    }
    admits(&kubelet, || format!("{}\n\n{}", old.log(), new.log())).await;
    assert_eq!(role(&node).0, "active");
}

/// Stops the old process at a step. The new one does not answer as long as the old one has the lock. Later one of the two serves.
async fn old_stopped(version: Version, step: u8) {
    let (node, kubelet, old, new, _) = disturbed(version, Side::Old, step, Signal::STOP).await;
    let waits = async { new.wait_for("waiting for the process that serves").await };
    let withdrew = async { new.wait_for("hand-over: withdrew").await };
    tokio::select! {
        _ = waits => {}
        _ = withdrew => {}
    }
    assert!(!new.log().contains("took over"), "{}", new.log());
    old.signal(Signal::CONT);
    admits(&kubelet, || format!("{}\n\n{}", old.log(), new.log())).await;
    assert_eq!(role(&node).0, "active");
}

#[tokio::test]
async fn old_process_goes_on_when_the_new_one_hangs() {
    let [older, newer] = VERSIONS;
    tokio::join!(
        new_stopped(older, 1),
        new_stopped(newer, 2),
        new_stopped(older, 3),
        new_stopped(newer, 4),
        new_stopped(older, 4),
    );
}

#[tokio::test]
async fn new_process_waits_while_the_old_one_hangs() {
    let [older, newer] = VERSIONS;
    tokio::join!(old_stopped(older, 1), old_stopped(newer, 2), old_stopped(older, 3), old_stopped(newer, 3),);
}
