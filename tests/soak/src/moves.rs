//! The node, the kubelet and the plugin, and the random moves that they go through.

use anyhow::{Context, Result, anyhow};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::{Hold, Kubelet, Node, Vm, VmSpec};

/// The resource of the GPUs, and its name after a change of the pools.
const RESOURCES: [&str; 2] = ["example.com/gpu", "example.com/other"];
/// The GPUs of [`Node::with_eight_gpus`].
const GPUS: [&str; 8] = [
    "0000:1b:00.0",
    "0000:3d:00.0",
    "0000:4e:00.0",
    "0000:5f:00.0",
    "0000:9b:00.0",
    "0000:bd:00.0",
    "0000:ce:00.0",
    "0000:df:00.0",
];
/// A wait that is longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that moves.
pub(crate) struct World {
    plugin: Child,
    kubelet: Kubelet,
    vms: Vec<(usize, Vm)>,
    pods: Vec<String>,
    unbound: Vec<usize>,
    /// Connections to the status socket that a client holds open.
    clients: Vec<UnixStream>,
    moves: u64,
    node: Node,
}

impl World {
    /// Starts the node, the kubelet and the plugin.
    pub(crate) async fn start(program: &Path) -> Result<Self> {
        let node = Node::with_eight_gpus()?;
        fs::create_dir_all(node.root().join("var/run"))?;
        write_pools(&node, RESOURCES[0])?;
        let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await?;
        let plugin = Command::new(program)
            .arg("serve")
            .args(node.plugin_options())
            .args(["--cdi-dir".as_ref(), node.root().join("var/run/cdi").as_path()])
            .args(["--pools".as_ref(), node.root().join("pools.yaml").as_path()])
            .args(["--interval", "100ms", "--settling", "100ms", "--assignments-interval", "500ms"])
            .args(["--kubelet-start", "500ms", "--pci-ids", "/dev/null"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let (vms, pods, unbound, clients) = Default::default();
        let mut world = Self { plugin, kubelet, vms, pods, unbound, clients, moves: 0, node };
        world.rest().await?;
        Ok(world)
    }

    /// Returns the plugin's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.plugin.id()
    }

    /// Returns the number of moves so far.
    pub(crate) fn moves(&self) -> u64 {
        self.moves
    }

    /// Makes one random move. A move that is not possible now does nothing.
    ///
    /// # Errors
    /// The node or the kubelet failed. A refused Allocate is no failure.
    pub(crate) async fn random_move(&mut self, random: &mut fastrand::Rng) -> Result<()> {
        self.moves += 1;
        let gpu = random.usize(..GPUS.len());
        match random.u8(..100) {
            0..25 => self.hold(gpu, random.bool())?,
            25..45 => self.free(random),
            45..55 => self.unbind(gpu)?,
            55..65 => self.bind_one()?,
            65..75 => self.admit(random).await,
            75..83 => self.remove(random),
            83..86 => self.kubelet.restart(random.bool()).await?,
            86..88 => self.kubelet.drop_stream(RESOURCES[0]),
            88..91 => write_pools(&self.node, random.choice(RESOURCES).unwrap_or(RESOURCES[0]))?,
            91..93 => self.node.write("pools.yaml", "pools: [")?,
            93..95 => self.kubelet.set_pod_resources_mode(match random.u8(..3) {
                0 => PodResourcesMode::Empty,
                1 => PodResourcesMode::RateLimited,
                _ => PodResourcesMode::Normal,
            }),
            95..97 => fs::write(self.node.kubelet_dir().join("kubelet_internal_checkpoint"), "{\"Data\":")?,
            _ => self.status_client(random),
        }
        tokio::time::sleep(Duration::from_millis(random.u64(1..60))).await;
        Ok(())
    }

    fn hold(&mut self, gpu: usize, group_only: bool) -> Result<()> {
        if self.vms.iter().any(|(held, _)| *held == gpu) || self.unbound.contains(&gpu) {
            return Ok(());
        }
        let hold = if group_only { Hold::GroupOnly } else { Hold::Device };
        let address = GPUS.get(gpu).copied().unwrap_or_default();
        self.vms.push((gpu, self.node.start_vm(&VmSpec { hold, ..VmSpec::foreign(&[address]) })?));
        Ok(())
    }

    fn free(&mut self, random: &mut fastrand::Rng) {
        if !self.vms.is_empty() {
            self.vms.swap_remove(random.usize(..self.vms.len())).1.kill();
        }
    }

    fn unbind(&mut self, gpu: usize) -> Result<()> {
        if !self.vms.iter().any(|(held, _)| *held == gpu) && !self.unbound.contains(&gpu) {
            self.node.unbind(GPUS.get(gpu).copied().unwrap_or_default())?;
            self.unbound.push(gpu);
        }
        Ok(())
    }

    fn bind_one(&mut self) -> Result<()> {
        if let Some(gpu) = self.unbound.pop() {
            self.node.bind(GPUS.get(gpu).copied().unwrap_or_default(), "vfio-pci")?;
        }
        Ok(())
    }

    async fn admit(&mut self, random: &mut fastrand::Rng) {
        let name = format!("vm-{}", self.moves);
        let admitted = self.kubelet.admit(&name, RESOURCES[0], random.usize(1..4)).await;
        self.pods.extend(admitted.map(|admission| admission.pod_uid));
    }

    fn remove(&mut self, random: &mut fastrand::Rng) {
        if !self.pods.is_empty() {
            self.kubelet.remove(&self.pods.swap_remove(random.usize(..self.pods.len())));
        }
    }

    /// A client that reads the status, or one that holds its connection open.
    fn status_client(&mut self, random: &mut fastrand::Rng) {
        let Ok(mut stream) = UnixStream::connect(self.node.run_dir().join("status.sock")) else { return };
        let _ = stream.write_all(b"x");
        if random.bool() {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = stream.read(&mut [0; 4096]);
        } else if self.clients.len() < 8 {
            self.clients.push(stream);
        }
    }

    /// Brings the node back to its first state, and waits until the kubelet has all devices as Healthy.
    ///
    /// # Errors
    /// The plugin does not report all devices as Healthy in time.
    pub(crate) async fn rest(&mut self) -> Result<()> {
        self.clients.clear();
        self.vms.drain(..).for_each(|(_, vm)| vm.kill());
        while !self.unbound.is_empty() {
            self.bind_one()?;
        }
        self.pods.drain(..).for_each(|pod| self.kubelet.remove(&pod));
        self.kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
        write_pools(&self.node, RESOURCES[0])?;
        let all =
            self.kubelet.wait_for(PATIENCE, |state| state.capacity(RESOURCES[0]).allocatable == GPUS.len());
        all.await.map_err(|state| {
            anyhow!("not all devices are Healthy again: {:?}", state.capacity(RESOURCES[0]))
        })?;
        // Connections and streams of before end within a second.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    /// Ends the plugin.
    ///
    /// # Errors
    /// It has ended before.
    pub(crate) fn end(mut self) -> Result<()> {
        if let Some(status) = self.plugin.try_wait()? {
            return Err(anyhow!("the plugin has ended: {status}"));
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.plugin.kill();
        let _ = self.plugin.wait();
    }
}

/// Writes a pools file that offers all devices under one name.
fn write_pools(node: &Node, resource: &str) -> Result<()> {
    Ok(node.write("pools.yaml", format!("pools: [{{resource: {resource}, select: [{{}}]}}]\n"))?)
}
