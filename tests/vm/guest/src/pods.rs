//! Runs the kubelet's own device manager in the VM, with pods and VMs that open real groups.

use crate::host::{EIGHT, Holder, bind, group, unbind, wait_until};
use crate::plugin::{self, PROGRAM, RUN_DIR, list, listed};
use anyhow::{Context, Result, bail, ensure};
use kubelet_process::{DeviceManager, PodShape, PodSpec};
use std::fs;
use std::process::{Child, Command, Stdio};

const KUBELET: &str = "/bin/kubelet";

/// A node that offers exactly eight devices, each alone in its group.
pub(crate) struct Node {
    kubelet: DeviceManager,
    serve: Child,
    busy: &'static str,
    resource: String,
    pods: Vec<Holder>,
    requested: usize,
}

impl Node {
    /// Binds the eight devices only, and starts kubelet and plugin.
    pub(crate) fn start(busy: &'static str) -> Result<Self> {
        for address in crate::host::BOUND {
            unbind(address)?;
        }
        for address in EIGHT {
            bind(address)?;
        }
        let _ = fs::remove_dir_all("/var/lib/kubelet");
        let _ = fs::remove_dir_all(RUN_DIR);
        fs::create_dir_all("/var/lib/kubelet")?;
        fs::create_dir_all(RUN_DIR)?;
        let mut kubelet = Command::new(KUBELET);
        kubelet.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create("/tmp/kubelet.log")?);
        let kubelet = DeviceManager::start(kubelet.spawn().context(KUBELET)?, &[PodSpec::of_plugin()], &[])?;
        let mut node =
            Self { kubelet, serve: serve(busy)?, busy, resource: String::new(), pods: vec![], requested: 0 };
        wait_until("the plugin is ready", || Ok(listed(EIGHT[0])?["health"] == "Healthy"))?;
        node.resource = listed(EIGHT[0])?["resource"].as_str().context("no resource")?.to_owned();
        node.wait_for((8, 8, 0))?;
        Ok(node)
    }

    /// Returns the kubelet's version.
    pub(crate) fn version(&self) -> &str {
        &self.kubelet.version
    }

    /// Returns capacity, allocatable and requested.
    pub(crate) fn numbers(&mut self) -> Result<(usize, usize, usize)> {
        let (capacity, allocatable) = self.kubelet.capacity(&self.resource)?;
        Ok((capacity, allocatable, self.requested))
    }

    /// Waits until the numbers are `wanted`. Returns how long that took.
    pub(crate) fn wait_for(&mut self, wanted: (usize, usize, usize)) -> Result<std::time::Duration> {
        let mut last = (0, 0, 0);
        wait_until(&format!("capacity, allocatable and requested are {wanted:?}"), || {
            last = self.numbers()?;
            Ok(last == wanted)
        })
        .with_context(|| format!("they are {last:?}"))
    }

    /// Returns true if the scheduler sees room for a pod with one device.
    pub(crate) fn has_room(&mut self) -> Result<bool> {
        let (_, allocatable, requested) = self.numbers()?;
        Ok(allocatable > requested)
    }

    /// Has the kubelet admit a pod with one device. Returns the device's address, or why the pod is not admitted.
    pub(crate) fn admit(&mut self) -> Result<Result<String, String>> {
        let number = u32::try_from(self.pods.len() + 1)?;
        let answer = self.kubelet.admit(&PodSpec::new(number, PodShape::One, &self.resource))?;
        let allocation = match answer {
            Ok(allocation) => allocation,
            Err(reason) => return Ok(Err(reason)),
        };
        self.requested += 1;
        let mut addresses = allocation.values().flat_map(kubelet_process::ContainerAllocation::addresses);
        let address = addresses.next().context("no address in the environment")?;
        ensure!(addresses.next().is_none(), "more than one address");
        Ok(Ok(address))
    }

    /// Runs a pod: the scheduler sees room, the kubelet admits it, and its VM opens its group. Returns the device's
    /// address.
    pub(crate) fn run_pod(&mut self) -> Result<String> {
        ensure!(self.has_room()?, "the scheduler sees no room: {:?}", self.numbers()?);
        self.run_placed_pod()
    }

    /// Runs a pod as [`Node::run_pod`] does, without asking whether the scheduler sees room.
    pub(crate) fn run_placed_pod(&mut self) -> Result<String> {
        let address = match self.admit()? {
            Ok(address) => address,
            Err(reason) => bail!("not admitted: {reason}"),
        };
        let vm = Holder::start(&["full", &group(&address)?, &address])
            .with_context(|| format!("the VM with {address} does not start"))?;
        self.pods.push(vm);
        Ok(address)
    }

    /// Kills the plugin with SIGKILL and starts it again.
    pub(crate) fn restart_plugin(&mut self) -> Result<()> {
        self.serve.kill()?;
        self.serve.wait()?;
        self.serve = serve(self.busy)?;
        wait_until("the new plugin is ready", || {
            ensure!(self.serve.try_wait()?.is_none(), "serve has exited");
            Ok(plugin::run(&["ready"])?.0 == 0)
        })?;
        Ok(())
    }

    /// Returns the devices that no process holds.
    pub(crate) fn free(&self) -> Result<Vec<&'static str>> {
        let devices = list()?;
        let free = |address: &str| {
            devices.iter().any(|device| device["address"] == address && device["state"] == "free")
        };
        Ok(EIGHT.into_iter().filter(|address| free(address)).collect())
    }
}

fn serve(busy: &str) -> Result<Child> {
    let mut serve = Command::new(PROGRAM);
    serve.args([
        "serve",
        "--select",
        "1234:11e8",
        "--busy",
        busy,
        "--run-dir",
        RUN_DIR,
        "--log-level",
        "error",
    ]);
    serve.stdin(Stdio::null()).spawn().context(PROGRAM)
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}
