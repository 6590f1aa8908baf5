//! The demo's node, kubelet and plugin process, and what can be done with them.

use super::screen::Screen;
use crate::health::Busy;
use crate::snapshot::Listing;
use crate::{list, status};
use anyhow::{Context, bail};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::Books;
use vfio_sim_node::machine::VmProgram;
use vfio_sim_node::{Kubelet, Node};

/// Longest wait for anything that the story expects.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The plugin's interval on the stage: `serve`'s default.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Everything that the story is played with.
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) kubelet: Kubelet,
    plugin: Option<Child>,
    pub(crate) resource: String,
}

impl Stage {
    /// Eight GPUs on two NUMA nodes and a kubelet; no plugin yet.
    pub(crate) async fn set() -> anyhow::Result<Self> {
        let program = VmProgram {
            path: std::env::current_exe().context("this executable's path")?,
            arg0: "qemu-system-x86".to_owned(),
            args: vec!["demo-vm".to_owned()],
        };
        let node = Node::with_eight_gpus().context("simulated node")?.with_vm_program(program);
        let kubelet =
            Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.context("kubelet")?;
        Ok(Self { node, kubelet, plugin: None, resource: String::new() })
    }

    /// Runs `serve`, as it would run on a node.
    pub(crate) async fn start_plugin(&mut self, busy: Busy) -> anyhow::Result<()> {
        let known = self.kubelet.books().registrations_of(&self.resource);
        let child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args(["--root".as_ref(), self.node.root()])
            .args(["--kubelet-dir".as_ref(), self.node.kubelet_dir().as_path()])
            .args(["--pod-resources".as_ref(), self.node.pod_resources_socket().as_path()])
            .args(["--run-dir".as_ref(), self.node.run_dir().as_path()])
            .args([
                "--interval",
                "1s",
                "--busy",
                &busy.to_string(),
                "--select",
                "10de/03",
                "--log-level",
                "error",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start serve")?;
        self.plugin = Some(child);
        let resource = &self.resource;
        let listed = |books: &Books| {
            let new = resource.is_empty() || books.registrations_of(resource) > known;
            new && books.resources.values().any(|resource| resource.lists > 0)
        };
        let Ok(books) = self.wait(listed).await else {
            bail!("the plugin has not registered within {PATIENCE:?}")
        };
        self.resource = books.resources.keys().next().cloned().unwrap_or_default();
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill_plugin(&mut self) {
        if let Some(mut plugin) = self.plugin.take() {
            let _ = plugin.kill();
            let _ = plugin.wait();
        }
    }

    /// SIGTERM, and whether it exited with 0 within a second and left no socket.
    pub(crate) fn stop_plugin(&mut self) -> bool {
        let Some(mut plugin) = self.plugin.take() else { return false };
        let began = Instant::now();
        let pid = i32::try_from(plugin.id()).ok().and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return false };
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_err() {
            return false;
        }
        let mut code = None;
        while code.is_none() && began.elapsed() < PATIENCE {
            code = plugin.try_wait().ok().flatten();
            std::thread::sleep(Duration::from_millis(5));
        }
        let sockets = std::fs::read_dir(self.node.kubelet_dir()).map(|entries| {
            entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("vfio-")).count()
        });
        code.is_some_and(|code| code.success())
            && began.elapsed() < Duration::from_secs(1)
            && sockets.is_ok_and(|n| n == 0)
    }

    /// Waits for the kubelet's books to be as wanted, at most [`PATIENCE`]; how long it took.
    pub(crate) async fn wait(&self, wanted: impl FnMut(&Books) -> bool) -> Result<Books, Books> {
        self.kubelet.wait_for(PATIENCE, wanted).await
    }

    /// Waits until a device is as healthy as wanted; how long that took, if it came.
    pub(crate) async fn wait_for_health(&self, id: &str, healthy: bool) -> Option<Duration> {
        let began = Instant::now();
        let resource = &self.resource;
        let wanted = |books: &Books| {
            let resource = books.resources.get(resource);
            resource.is_some_and(|known| known.health(id).is_some() && known.is_healthy(id) == healthy)
        };
        self.wait(wanted).await.ok().map(|_| began.elapsed())
    }

    /// The devices as `list` would print them, in the plugin's own words.
    pub(crate) fn listing(&self) -> Listing {
        let report = status::fetch(&self.node.run_dir(), Duration::from_secs(1));
        Listing { devices: report.map(|report| report.devices).unwrap_or_default() }
    }

    /// The table, with the numbers that the scheduler counts with.
    pub(crate) fn table(&self) -> String {
        let numbers = self.kubelet.capacity(&self.resource);
        format!(
            "{}capacity {}, allocatable {}, requested {}: the scheduler sees {} free\n",
            list::table(&self.listing()),
            numbers.capacity,
            numbers.allocatable,
            numbers.requested,
            numbers.left()
        )
    }

    /// Lets time pass for a reader, with a table that moves.
    pub(crate) async fn pause(&self, screen: &Screen) {
        let until = Instant::now() + screen.pause();
        while screen.is_live() && Instant::now() < until {
            screen.draw(&self.table());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill_plugin();
    }
}
