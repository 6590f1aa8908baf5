//! Sets up the demo's node, kubelet stand-in and plugin process, and waits for what they report.

use crate::plugin::{self, Device, Plugin};
use crate::screen::Screen;
use anyhow::{Context, bail};
use std::process::Child;
use std::time::{Duration, Instant};
use vfio_sim_node::VmProgram;
use vfio_sim_node::kubelet::KubeletState;
use vfio_sim_node::{Kubelet, Node};

/// The longest wait for anything that a scenario expects.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The plugin's interval in the demo, which is `serve`'s default.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// The time in which `serve` must exit after SIGTERM.
const EXIT_LIMIT: Duration = Duration::from_secs(1);
/// The hidden command by which this program runs as a VM.
pub(crate) const VM_COMMAND: &str = "vm";

/// Everything that the scenarios are played with.
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) kubelet: Kubelet,
    program: Plugin,
    serve: Option<Child>,
    /// The name of the GPUs' resource, once the plugin has registered it.
    pub(crate) resource: String,
}

impl Stage {
    /// Creates a node with eight GPUs on two NUMA nodes and starts a kubelet. The plugin does not run yet.
    ///
    /// # Errors
    /// The node's directory or the kubelet's sockets cannot be created.
    pub(crate) async fn set(program: Plugin) -> anyhow::Result<Self> {
        let vm = VmProgram {
            path: std::env::current_exe().context("cannot read the path of this executable")?,
            arg0: "qemu-system-x86".to_owned(),
            args: vec![VM_COMMAND.to_owned()],
        };
        let node = Node::with_eight_gpus().context("cannot create the simulated node")?.with_vm_program(vm);
        let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket())
            .await
            .context("cannot start the kubelet stand-in")?;
        Ok(Self { node, kubelet, program, serve: None, resource: String::new() })
    }

    /// Starts `serve` with the policy `busy` and waits until it has registered and sent its first list.
    ///
    /// # Errors
    /// The program cannot be started, or does not register within [`PATIENCE`].
    pub(crate) async fn start_plugin(&mut self, busy: &str) -> anyhow::Result<()> {
        let known = self.kubelet.state().registrations_of(&self.resource);
        self.serve = Some(self.program.serve(&self.node, busy)?);
        let resource = &self.resource;
        let listed = |state: &KubeletState| {
            let new = resource.is_empty() || state.registrations_of(resource) > known;
            new && state.resources.values().any(|resource| resource.lists > 0)
        };
        let Ok(state) = self.wait(listed).await else {
            bail!("the plugin has not registered within {PATIENCE:?}")
        };
        self.resource = state.resources.keys().next().cloned().unwrap_or_default();
        Ok(())
    }

    /// Kills the plugin with SIGKILL.
    pub(crate) fn kill_plugin(&mut self) {
        if let Some(mut serve) = self.serve.take() {
            let _ = serve.kill();
            let _ = serve.wait();
        }
    }

    /// Sends SIGTERM to the plugin. Returns true if it exits with 0 within a second and leaves no socket.
    pub(crate) fn stop_plugin(&mut self) -> bool {
        let Some(serve) = self.serve.take() else { return false };
        plugin::terminate(serve, EXIT_LIMIT, PATIENCE)
            && plugin::own_sockets(&self.node.kubelet_dir()).is_ok_and(|sockets| sockets == 0)
    }

    /// Waits at most [`PATIENCE`] until the kubelet's state is as wanted. Returns that state, on timeout as the error.
    pub(crate) async fn wait(
        &self,
        wanted: impl FnMut(&KubeletState) -> bool,
    ) -> Result<KubeletState, KubeletState> {
        self.kubelet.wait_for(PATIENCE, wanted).await
    }

    /// Waits until a device is Healthy or Unhealthy. Returns how long that took; `None` on timeout.
    pub(crate) async fn wait_for_health(&self, id: &str, healthy: bool) -> Option<Duration> {
        let began = Instant::now();
        let resource = &self.resource;
        let wanted = |state: &KubeletState| {
            let resource = state.resources.get(resource);
            resource.is_some_and(|known| known.health(id).is_some() && known.is_healthy(id) == healthy)
        };
        self.wait(wanted).await.ok().map(|_| began.elapsed())
    }

    /// Returns the devices of the plugin's `list --json`.
    ///
    /// # Errors
    /// See [`Plugin::devices`].
    pub(crate) fn devices(&self) -> anyhow::Result<Vec<Device>> {
        self.program.devices(&self.node)
    }

    /// Waits at most [`PATIENCE`] until the devices of `list --json` are as wanted. Returns true if they are.
    ///
    /// # Errors
    /// See [`Plugin::devices`].
    pub(crate) async fn wait_for_devices(&self, wanted: impl Fn(&[Device]) -> bool) -> anyhow::Result<bool> {
        let until = Instant::now() + PATIENCE;
        while !wanted(&self.devices()?) {
            if Instant::now() > until {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(true)
    }

    /// Returns the table that the plugin's `list` prints, and below it the numbers that the scheduler counts with.
    /// `columns` is the width that it must fit into.
    ///
    /// # Errors
    /// See [`Plugin::table`].
    pub(crate) fn table(&self, columns: Option<usize>) -> anyhow::Result<String> {
        let numbers = self.kubelet.capacity(&self.resource);
        Ok(format!(
            "{}capacity {}, allocatable {}, requested {}: the scheduler sees {} free\n",
            self.program.table(&self.node, columns)?,
            numbers.capacity,
            numbers.allocatable,
            numbers.requested,
            numbers.left()
        ))
    }

    /// Waits for a reader while the table is redrawn. Returns at once in plain text.
    ///
    /// # Errors
    /// See [`Plugin::table`].
    pub(crate) async fn pause(&self, screen: &Screen) -> anyhow::Result<()> {
        let until = Instant::now() + screen.pause();
        while screen.is_live() && Instant::now() < until {
            screen.draw(&self.table(screen.columns())?);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill_plugin();
    }
}
