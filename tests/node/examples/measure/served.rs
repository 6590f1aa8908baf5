//! A plugin that runs beside a stand-in kubelet on a simulated node, and what the kernel says of its process.

use crate::plugin::Plugin;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::KubeletState;
use vfio_sim_node::{Function, Kubelet, Node};

const PATIENCE: Duration = Duration::from_secs(30);

/// The size of a node: PCI functions in all, and how many of them are bound.
pub(crate) type Size = (u32, u32);

/// Returns the address of a bound function. The functions are in turn on a bus of NUMA node 0 and on one of NUMA node 1: the
/// kernel gives all functions of a bus the same node.
pub(crate) fn address(index: u32) -> String {
    format!("0000:{:02x}:{:02x}.0", (index >> 6 << 1) + (index & 1), index >> 1 & 31)
}

/// Creates a node of this size.
pub(crate) fn node((functions, bound): Size) -> Node {
    let node = Node::new().unwrap();
    for index in 0..bound {
        node.add(Function::gpu(&address(index), index, i32::from(index & 1 == 1))).unwrap();
    }
    node.add_unbound_functions(functions - bound).unwrap();
    // No NUMA node was set by hand.
    fs::create_dir_all(node.root().join("proc/sys/kernel")).unwrap();
    node.write("proc/sys/kernel/tainted", "0\n").unwrap();
    node
}

/// A running plugin and the kubelet that it talks to.
pub(crate) struct Served {
    pub(crate) kubelet: Kubelet,
    pub(crate) began: Instant,
    process: Child,
}

impl Served {
    /// Starts a plugin under strace if `strace` is its log file.
    pub(crate) async fn start(
        node: &Node,
        plugin: &Plugin,
        arguments: &[&str],
        strace: Option<&Path>,
    ) -> Self {
        let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
        let words = plugin.command(node, arguments);
        let mut command = match strace {
            None => Command::new(&words[0]),
            Some(log) => {
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-ttt", "-e", "signal=none", "-o"]).arg(log).arg(&words[0]);
                command
            }
        };
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(log) = std::env::var_os("MEASURE_LOG") {
            command.stderr(fs::File::create(log).unwrap());
        }
        let began = Instant::now();
        let process = command.spawn().unwrap();
        Self { kubelet, began, process }
    }

    /// Waits until the kubelet's state is as wanted.
    pub(crate) async fn wait(&self, what: &str, wanted: impl FnMut(&KubeletState) -> bool) -> KubeletState {
        let state = self.kubelet.wait_for(PATIENCE, wanted).await;
        state.unwrap_or_else(|state| panic!("never {what}: {:?}", state.registrations))
    }

    /// Waits for the first list.
    pub(crate) async fn listed(&self) -> KubeletState {
        self.wait("listed", |state| state.resources.values().any(|resource| resource.lists > 0)).await
    }

    /// Waits until a device has this health. Returns when the list with it arrived.
    pub(crate) async fn healthy(&self, id: &str, healthy: bool) -> Instant {
        let state = self.wait("in this health", |state| reported(state, id) == Some(healthy)).await;
        state.resources.values().next().unwrap().listed_at.unwrap()
    }

    /// Returns the name of the only resource.
    pub(crate) fn resource(&self) -> String {
        self.kubelet.state().resources.keys().next().unwrap().clone()
    }

    /// Returns the nanoseconds that all threads have spent on a CPU so far (schedstat of the scheduler, not sampled).
    pub(crate) fn cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let ran = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
        ran.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Returns a number of /proc/PID/status.
    pub(crate) fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // strace that is killed alone leaves the plugin running.
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)) {
            let _ = kill_process(child, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.kubelet.stop();
    }
}

fn reported(state: &KubeletState, id: &str) -> Option<bool> {
    state.resources.values().next()?.health(id).map(|health| health == "Healthy")
}
