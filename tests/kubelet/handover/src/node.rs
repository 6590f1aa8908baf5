//! The node: eight devices, the kubelet's device manager, and the processes of the plugin.

use crate::pods::Pod;
use crate::process::{Process, Trap};
use anyhow::Context;
use kubelet_process::{DeviceManager, KubeletProgram, Launcher, PodSpec};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The resource of the GPUs, by its hex id.
pub(crate) const RESOURCE: &str = "nvidia.com/2330";
/// The number of devices.
pub(crate) const DEVICES: usize = 8;
/// Longer than everything that is waited for here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// vfio-device-plugin.
    pub(crate) plugin: PathBuf,
    /// The kubelet's device manager.
    pub(crate) kubelet: PathBuf,
}

/// A node with a kubelet, a process of the plugin, and six pods with VMs.
pub(crate) struct Node {
    pub(crate) processes: Vec<Process>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) manager: DeviceManager,
    pub(crate) node: vfio_sim_node::Node,
    pub(crate) pods_so_far: u32,
    /// The process that the first one has started by itself.
    pub(crate) successor: Option<Pid>,
    programs: Programs,
    /// In the place of systemd's: where the plugin reports its state (sd_notify(3)).
    notifications: UnixDatagram,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(pid) = self.successor {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Node {
    pub(crate) fn start(launcher: &Launcher, programs: &Programs) -> anyhow::Result<Self> {
        let node = vfio_sim_node::Node::with_eight_gpus()?;
        let kubelet = KubeletProgram {
            program: programs.kubelet.clone(),
            dir: node.root().join("var/lib/kubelet"),
            log: node.root().join("kubelet.log"),
        };
        // A node with a device plugin has at least one pod: the plugin's.
        let manager = kubelet.start(launcher, &[PodSpec::of_plugin()], &[])?;
        let (processes, pods, programs) = (Vec::new(), Vec::new(), programs.clone());
        let notifications = UnixDatagram::bind(node.root().join("notify"))?;
        notifications.set_nonblocking(true)?;
        let mut node =
            Self { processes, pods, manager, node, pods_so_far: 0, successor: None, programs, notifications };
        node.start_process()?;
        node.wait_for("all devices are allocatable", Self::is_complete)?;
        for _ in 0..6 {
            node.run_pod()?;
        }
        node.wait_for("the plugin has the assignments", |node| Ok(node.check_assignments().is_ok()))?;
        Ok(node)
    }

    /// Returns the kubelet's version.
    pub(crate) fn version(&self) -> &str {
        &self.manager.version
    }

    /// Keeps the node's directory with the logs. Returns its path.
    pub(crate) fn keep(&self) -> String {
        self.node.keep();
        self.node.root().display().to_string()
    }

    fn spawn(&self) -> anyhow::Result<Process> {
        let number = self.processes.len() + 1;
        let log = File::create(self.node.root().join(format!("plugin-{number}.log")))?;
        let mut command = Command::new(&self.programs.plugin);
        command
            .arg("serve")
            .args(self.node.plugin_options())
            .args(["--pci-ids", "/dev/null", "--log-level", "debug", "--log-format", "json"])
            .env("NOTIFY_SOCKET", self.node.root().join("notify"));
        Process::start(&mut command, log)
    }

    /// Starts a process of the plugin, beside those that run.
    pub(crate) fn start_process(&mut self) -> anyhow::Result<()> {
        let process = self.spawn()?;
        self.processes.push(process);
        Ok(())
    }

    /// As [`Node::start_process`], with a trap in the log of each process. The trap is made from the new process's id.
    pub(crate) fn start_process_with(&mut self, trap: impl Fn(Pid) -> Trap) -> anyhow::Result<()> {
        let process = self.spawn()?;
        let trap = trap(process.pid());
        self.processes.push(process);
        self.processes.iter().for_each(|process| process.set_trap(trap));
        Ok(())
    }

    /// Returns the lines that the plugin has sent to systemd since the last call.
    pub(crate) fn notifications(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(size) = self.notifications.recv(&mut buffer) {
            let text = String::from_utf8_lossy(buffer.get(..size).unwrap_or_default()).into_owned();
            lines.extend(text.lines().map(str::to_owned));
        }
        lines
    }

    /// Returns whether the kubelet has all devices as capacity and as allocatable.
    pub(crate) fn is_complete(&mut self) -> anyhow::Result<bool> {
        Ok(self.manager.capacity(RESOURCE)? == (DEVICES, DEVICES))
    }

    /// Returns the process that may answer Allocate: the one that has the lock of the run directory.
    pub(crate) fn active(&self) -> anyhow::Result<Option<Pid>> {
        let Ok(lock) = self.node.run_dir().join("serve.lock").metadata() else { return Ok(None) };
        // `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`
        let locks = std::fs::read_to_string("/proc/locks").context("/proc/locks")?;
        for line in locks.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, _, pid, file, ..] = fields.as_slice() else { continue };
            if file.rsplit(':').next().and_then(|inode| inode.parse().ok()) == Some(lock.ino()) {
                return Ok(pid.parse().ok().and_then(Pid::from_raw));
            }
        }
        Ok(None)
    }

    /// Returns the devices of `list --json`.
    pub(crate) fn listed(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        Ok(self.node.listed(&self.programs.plugin)?)
    }
}
