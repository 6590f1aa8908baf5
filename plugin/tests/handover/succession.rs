//! The pod that was replaced does not take over again. Each pod is a UTS namespace here, with a host name of its own.

use crate::common::{H100, expect, is_permitted, kubelet, program};
use crate::process::{Process, role};
use std::process::Command;
use vfio_sim_node::Node;

/// Runs the program with a host name.
fn on_host(name: &str, program: &Command) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--uts", "sh", "-c", r#"echo "$0" >/proc/sys/kernel/hostname && exec "$@""#, name]);
    command.arg(program.get_program()).args(program.get_args());
    command
}

#[tokio::test]
async fn restarted_process_of_a_replaced_pod_waits() {
    if !is_permitted(Command::new("unshare").args(["--uts", "true"])) {
        return;
    }
    // The simulated node takes CAP_SYS_ADMIN from its thread, and unshare needs it.
    let node = std::thread::spawn(|| Node::with_eight_gpus().unwrap()).join().unwrap();
    let kubelet = kubelet(&node).await;
    let serve = program(&node, &["serve"]);
    let old = Process::spawn(on_host("old-pod", &serve), "old");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let new = Process::spawn(on_host("new-pod", &serve), "new");
    new.wait_for("took over").await;
    old.wait_for("waiting for SIGTERM").await;

    drop(old);
    let old = Process::spawn(on_host("old-pod", &serve), "old again");
    old.wait_for("the pod of that process has replaced this one").await;
    assert_eq!(role(&node), ("active".to_owned(), new.pid()), "{}", new.log());
    assert_eq!(kubelet.state().gaps, 0);

    drop(new);
    expect(&kubelet, "the old one serves", |state| state.capacity(H100).allocatable == 8).await;
    let new = Process::spawn(on_host("new-pod", &serve), "new again");
    new.wait_for("took over").await;
    old.wait_for("waiting for SIGTERM").await;
}
