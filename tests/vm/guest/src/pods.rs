//! The kubelet's own device manager on this node, with pods whose machines really open their groups.

use crate::host::{EIGHT, Holder, bind, group, unbind, wait_until};
use crate::plugin::{self, PROGRAM, RUN, list, listed};
use anyhow::{Context, Result, bail, ensure};
use kubelet_process::{DeviceManager, PodShape, PodSpec};
use std::fs;
use std::process::{Child, Command, Stdio};

const KUBELET: &str = "/bin/kubelet";

/// Eight devices, each alone in its group, and nothing else that could be offered.
pub(crate) struct Node {
    kubelet: DeviceManager,
    serve: Child,
    busy: &'static str,
    resource: String,
    pods: Vec<Holder>,
    requested: usize,
}

impl Node {
    /// Binds the eight alone, and starts kubelet and plugin.
    pub(crate) fn start(busy: &'static str) -> Result<Self> {
        for address in crate::host::BOUND {
            unbind(address)?;
        }
        for address in EIGHT {
            bind(address)?;
        }
        let _ = fs::remove_dir_all("/var/lib/kubelet");
        let _ = fs::remove_dir_all(RUN);
        fs::create_dir_all("/var/lib/kubelet")?;
        fs::create_dir_all(RUN)?;
        let mut kubelet = Command::new(KUBELET);
        kubelet.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create("/tmp/kubelet.log")?);
        let kubelet =
            DeviceManager::start(kubelet.spawn().context(KUBELET)?, &[PodSpec::of_the_plugin()], &[])?;
        let mut node =
            Self { kubelet, serve: serve(busy)?, busy, resource: String::new(), pods: vec![], requested: 0 };
        wait_until("the plugin is ready", || Ok(listed(EIGHT[0])?["health"] == "Healthy"))?;
        node.resource = listed(EIGHT[0])?["resource"].as_str().context("no resource")?.to_owned();
        node.wait_for((8, 8, 0))?;
        Ok(node)
    }

    /// The kubelet's version.
    pub(crate) fn version(&self) -> &str {
        &self.kubelet.version
    }

    /// Capacity, allocatable, requested.
    pub(crate) fn numbers(&mut self) -> Result<(usize, usize, usize)> {
        let (capacity, allocatable) = self.kubelet.capacity(&self.resource)?;
        Ok((capacity, allocatable, self.requested))
    }

    /// Waits until they are these; how long it took.
    pub(crate) fn wait_for(&mut self, wanted: (usize, usize, usize)) -> Result<std::time::Duration> {
        let mut last = (0, 0, 0);
        wait_until(&format!("capacity, allocatable and requested are {wanted:?}"), || {
            last = self.numbers()?;
            Ok(last == wanted)
        })
        .with_context(|| format!("they are {last:?}"))
    }

    /// Whether the scheduler sees room for a pod with one device.
    pub(crate) fn has_room(&mut self) -> Result<bool> {
        let (_, allocatable, requested) = self.numbers()?;
        Ok(allocatable > requested)
    }

    /// The kubelet admits a pod, or says why not.
    pub(crate) fn admit(&mut self) -> Result<Result<String, String>> {
        let number = u32::try_from(self.pods.len() + 1)?;
        let answer = self.kubelet.admit(&PodSpec::new(number, PodShape::One, &self.resource))?;
        let given = match answer {
            Ok(given) => given,
            Err(reason) => return Ok(Err(reason)),
        };
        self.requested += 1;
        let mut addresses = given.values().flat_map(kubelet_process::Given::addresses);
        let address = addresses.next().context("no address in the environment")?;
        ensure!(addresses.next().is_none(), "more than one address");
        Ok(Ok(address))
    }

    /// A pod is placed and admitted, and its machine opens its group.
    pub(crate) fn run_pod(&mut self) -> Result<String> {
        ensure!(self.has_room()?, "the scheduler sees no room: {:?}", self.numbers()?);
        self.run_placed_pod()
    }

    /// The same, wherever the scheduler sees room.
    pub(crate) fn run_placed_pod(&mut self) -> Result<String> {
        let address = match self.admit()? {
            Ok(address) => address,
            Err(reason) => bail!("not admitted: {reason}"),
        };
        let machine = Holder::start(&["full", &group(&address)?, &address])
            .with_context(|| format!("the machine with {address}"))?;
        self.pods.push(machine);
        Ok(address)
    }

    /// SIGKILL, and a new one.
    pub(crate) fn restart_plugin(&mut self) -> Result<()> {
        self.serve.kill()?;
        self.serve.wait()?;
        self.serve = serve(self.busy)?;
        wait_until("the new plugin is ready", || {
            ensure!(self.serve.try_wait()?.is_none(), "it has ended");
            Ok(plugin::run(&["ready"])?.0 == 0)
        })?;
        Ok(())
    }

    /// Those that nobody holds.
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
    serve.args(["serve", "--select", "1234:11e8", "--busy", busy, "--run-dir", RUN, "--log-level", "error"]);
    serve.stdin(Stdio::null()).spawn().context(PROGRAM)
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}
