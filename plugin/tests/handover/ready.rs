//! `ready` asks the process of its own container. Each container is a pid namespace here.

use crate::GPUS;
use crate::common::{H100, PATIENCE, is_permitted, kubelet, program};
use crate::process::{Process, wait_until};
use std::process::Command;
use vfio_sim_node::Node;

/// Runs the program in a pid namespace of its own, with a /proc of its own.
fn in_container(program: &Command) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(program.get_program()).args(program.get_args());
    command
}

/// Runs `ready` in the container of a process. Returns whether it succeeds.
fn ready(node: &Node, container: &Process, words: &[&str]) -> bool {
    let mut all = vec!["ready"];
    all.extend(words);
    let ready = program(node, &all);
    // `unshare` is in the host's namespace, and its only child is process 1 of the container.
    let children = format!("/proc/{0}/task/{0}/children", container.pid());
    let first = std::fs::read_to_string(children).unwrap();
    let mut command = Command::new("nsenter");
    command.args(["--pid", "--mount", "--target", first.trim(), "--"]);
    command.arg(ready.get_program()).args(ready.get_args());
    command.output().unwrap().status.success()
}

/// Waits until `ready` in a container succeeds, or until it fails. `ready --live` succeeds in both cases.
async fn wait_for(node: &Node, container: &Process, is_ready: bool) {
    let log = || format!("{is_ready}\n{}", container.log());
    wait_until(log, || ready(node, container, &[]) == is_ready).await;
    assert!(ready(node, container, &["--live"]), "{}", container.log());
}

#[tokio::test]
async fn ready_asks_the_process_of_its_own_container() {
    if !is_permitted(Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"])) {
        return;
    }
    // The simulated node takes CAP_SYS_ADMIN from its thread, and unshare needs it.
    let node = std::thread::spawn(|| Node::with_eight_gpus().unwrap()).join().unwrap();
    let kubelet = kubelet(&node).await;
    let serve = program(&node, &["serve"]);
    let old = Process::spawn(in_container(&serve), "old");
    let offered = kubelet.wait_for(PATIENCE * 3, |state| state.capacity(H100).allocatable == GPUS).await;
    assert!(offered.is_ok(), "{}", old.log());
    wait_for(&node, &old, true).await;
    let new = Process::spawn(in_container(&serve), "new");
    new.wait_for("took over").await;
    old.wait_for("waiting for SIGTERM").await;
    wait_for(&node, &new, true).await;
    wait_for(&node, &old, false).await;
    // The one that has retired first stays away from the next hand-over.
    let third = Process::spawn(in_container(&serve), "third");
    third.wait_for("took over").await;
    wait_for(&node, &third, true).await;
    wait_for(&node, &new, false).await;
    wait_for(&node, &old, false).await;
}
