//! SIGHUP replaces the running process by one of the program's file, without a gap, and systemd learns its process id.

use crate::common::{H100, PATIENCE, expect, kubelet, program};
use crate::faults::admits;
use crate::process::{Process, role};
use crate::{GPUS, VERSIONS};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use vfio_sim_node::Node;

#[tokio::test]
async fn reload_hands_over_to_a_new_process_and_names_it_to_systemd() {
    for version in VERSIONS {
        let node = Node::with_eight_gpus().unwrap();
        let kubelet = kubelet(&node).await;
        kubelet.set_version(version);
        let manager = UnixDatagram::bind(node.root().join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let receive = || {
            let mut text = [0; 256];
            let length = manager.recv(&mut text).unwrap();
            String::from_utf8(text[..length].to_vec()).unwrap()
        };
        let mut command = program(&node, &["serve"]);
        command.env("NOTIFY_SOCKET", node.root().join("notify"));
        let mut old = Process::spawn(command, "old");
        expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
        assert_eq!(receive(), "READY=1");
        old.signal(Signal::HUP);
        assert_eq!(old.exited().await, Some(0), "{}", old.log());
        let (word, new) = role(&node);
        let new = Successor(new);
        assert_eq!(receive(), format!("MAINPID={}\nREADY=1", new.0), "{}", old.log());
        assert!(word == "active" && new.0 != old.pid());
        assert_eq!(kubelet.state().gaps, 0, "{}", old.log());
        admits(&kubelet, || old.log()).await;
        manager.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(
            manager.recv(&mut [0; 8]).is_err(),
            "the new process is not the main process when it takes over"
        );
    }
}

#[tokio::test]
async fn reload_to_a_program_that_fails_leaves_the_old_process() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let copy = node.root().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_vfio-device-plugin"), &copy).unwrap();
    let real = program(&node, &["serve"]);
    let mut command = std::process::Command::new(&copy);
    command.args(real.get_args());
    let old = Process::spawn(command, "old");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
    std::fs::remove_file(&copy).unwrap();
    old.signal(Signal::HUP);
    old.wait_for("reload failed: the program could not be started").await;
    std::os::unix::fs::symlink("/bin/false", &copy).unwrap();
    old.signal(Signal::HUP);
    old.wait_for("reload failed: the new process has ended").await;
    admits(&kubelet, || old.log()).await;
    assert_eq!(role(&node), ("active".to_owned(), old.pid()));
}

/// The process that a reload has started, killed when this is dropped.
struct Successor(u32);

impl Drop for Successor {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
}
