//! Runs the plugin as an operator and a DaemonSet do, with the kubelet stand-in beside it.

use crate::host::wait_until;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use vfio_sim_node::Kubelet;

pub(crate) const PROGRAM: &str = "/bin/vfio-device-plugin";
const KUBELET_DIR: &str = "/tmp/kubelet/device-plugins";
const POD_RESOURCES: &str = "/tmp/kubelet/pod-resources/kubelet.sock";
pub(crate) const RUN_DIR: &str = "/tmp/run";

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    // The default selection has no emulated device. Tests with pools or names select by themselves.
    let named = words.iter().any(|word| ["--pools", "--pci-ids"].contains(word));
    let select: &[&str] = if named { &[] } else { &["--select", "*"] };
    command.args(words).args(select).args([
        "--run-dir",
        RUN_DIR,
        "--kubelet-dir",
        KUBELET_DIR,
        "--pod-resources",
        POD_RESOURCES,
    ]);
    command.args(["--log-level", "error"]);
    command
}

/// Runs a command to its end. Returns the exit code and the standard output.
pub(crate) fn run(words: &[&str]) -> Result<(i32, String)> {
    let output = command(words).output().context(PROGRAM)?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Runs a command that prints JSON.
pub(crate) fn json(words: &[&str]) -> Result<Value> {
    let (_, text) = run(words)?;
    serde_json::from_str(&text).with_context(|| format!("{words:?} printed {text:?}"))
}

/// Returns the devices of `list --json`.
pub(crate) fn list() -> Result<Vec<Value>> {
    list_of(&[])
}

/// Returns the devices of `list --json` with more options.
pub(crate) fn list_of(options: &[&str]) -> Result<Vec<Value>> {
    let list = json(&[&["list", "--json"], options].concat())?;
    Ok(list["devices"].as_array().context("no devices")?.clone())
}

/// Returns one device of `list --json`; null if the list does not have it.
pub(crate) fn listed(address: &str) -> Result<Value> {
    Ok(list()?.into_iter().find(|device| device["address"] == address).unwrap_or_default())
}

/// Returns the pids of a device's holders.
pub(crate) fn holders(device: &Value) -> Vec<u64> {
    device["holders"].as_array().into_iter().flatten().filter_map(|holder| holder["pid"].as_u64()).collect()
}

/// A kubelet and a running `serve`.
pub(crate) struct Served {
    /// Ends first.
    _serve: Process,
    kubelet: Kubelet,
    runtime: Runtime,
}

/// A running `serve`. It is killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts it with these options.
    pub(crate) fn serve(options: &[&str]) -> Result<Self> {
        fs::create_dir_all(RUN_DIR)?;
        Ok(Self(command(&[&["serve"], options].concat()).stdin(Stdio::null()).spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Served {
    /// Starts both, with an interval of one second, and waits for the first list.
    pub(crate) fn start(busy: &str) -> Result<Self> {
        Self::start_every("1s", busy)
    }

    /// Starts both with another interval.
    pub(crate) fn start_every(interval: &str, busy: &str) -> Result<Self> {
        Self::start_with(&["--busy", busy, "--interval", interval])
    }

    /// Starts both with these options.
    pub(crate) fn start_with(options: &[&str]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kubelet = runtime.block_on(Kubelet::start(Path::new(KUBELET_DIR), Path::new(POD_RESOURCES)))?;
        let served = Self { _serve: Process::serve(options)?, kubelet, runtime };
        wait_until("serve has registered", || {
            Ok(served.kubelet.state().resources.values().any(|resource| !resource.devices.is_empty()))
        })?;
        Ok(served)
    }

    /// Starts both with pools. `pools` are the entries of the file's list. Held devices are Unhealthy at once.
    pub(crate) fn of_pools(pools: &str) -> Result<Self> {
        forget_assignments();
        fs::write("/tmp/pools.yaml", format!("pools:\n{pools}"))?;
        Self::start_with(&["--pools", "/tmp/pools.yaml", "--interval", "1s", "--busy", "unhealthy"])
    }

    /// Returns the reported health of a device; `None` if it is not listed.
    pub(crate) fn health(&self, address: &str) -> Option<String> {
        let state = self.kubelet.state();
        state.resources.values().find_map(|resource| resource.health(address)).map(str::to_owned)
    }

    /// Waits until the reported health is `health`; `None` waits until the device has left the list. Returns how long
    /// that took.
    pub(crate) fn wait_for(&self, address: &str, health: Option<&str>) -> Result<Duration> {
        wait_until(&format!("{address} is {health:?}"), || Ok(self.health(address).as_deref() == health))
    }

    /// Returns the device nodes in Allocate's response for one device.
    pub(crate) fn nodes(&self, resource: &str, address: &str) -> Result<Vec<String>> {
        let ids = [address.to_owned()];
        let answers = self.runtime.block_on(self.kubelet.allocate(resource, &[&ids]));
        let answers = answers.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
        Ok(answers.into_iter().flat_map(|answer| answer.devices).map(|device| device.host_path).collect())
    }

    /// Returns Allocate's response for one container with these devices.
    pub(crate) fn allocation(&self, resource: &str, addresses: &[&str]) -> Result<Allocation> {
        let ids: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        let answers = self.runtime.block_on(self.kubelet.allocate(resource, &[&ids]));
        let answers =
            answers.map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()))?;
        let answer = answers.into_iter().next().context("no response for the container")?;
        let nodes = answer.devices.into_iter().map(|device| device.host_path).collect();
        Ok(Allocation { variables: answer.envs.into_iter().collect(), nodes })
    }

    /// Returns the NUMA nodes of a device in the kubelet's list.
    pub(crate) fn topology(&self, address: &str) -> Vec<i64> {
        let state = self.kubelet.state();
        let devices = state.resources.values().flat_map(|resource| &resource.devices);
        let device = devices.filter(|device| device.id == address);
        device
            .flat_map(|device| &device.topology)
            .flat_map(|topology| &topology.nodes)
            .map(|node| node.id)
            .collect()
    }

    /// Calls GetPreferredAllocation for one container.
    pub(crate) fn preferred(
        &self,
        resource: &str,
        of: &[&str],
        must: &[&str],
        count: usize,
    ) -> Result<Vec<String>> {
        let ids = |of: &[&str]| of.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
        let answer = self.runtime.block_on(self.kubelet.preferred(resource, &ids(of), &ids(must), count));
        answer.map_err(|status| anyhow::anyhow!("{}", status.message()))
    }

    /// Allocates one device. A refusal is the inner error, with code and message.
    pub(crate) fn allocate(&self, address: &str) -> Result<Result<String, String>> {
        let resource = listed(address)?["resource"].as_str().context("no resource")?.to_owned();
        let ids = [address.to_owned()];
        let answer = self.runtime.block_on(self.kubelet.allocate(&resource, &[&ids]));
        Ok(match answer {
            Ok(answer) => Ok(format!("{answer:?}")),
            Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
        })
    }
}

/// The environment variables and device nodes of a container.
pub(crate) struct Allocation {
    variables: Vec<(String, String)>,
    /// Device nodes in the order of the response.
    pub(crate) nodes: Vec<String>,
}

impl Allocation {
    /// Checks that the response has exactly this variable and these device nodes.
    pub(crate) fn check(&self, variable: (&str, &str), nodes: &[&str]) -> Result<()> {
        let (name, value) = variable;
        ensure!(self.variables == [(name.to_owned(), value.to_owned())], "variables: {:?}", self.variables);
        ensure!(self.nodes == nodes, "nodes: {:?}", self.nodes);
        Ok(())
    }

    /// Returns the path of one device node.
    pub(crate) fn node(&self, index: usize) -> Result<&str> {
        Ok(self.nodes.get(index).context("fewer nodes")?)
    }
}

/// A running `watch --json`.
pub(crate) struct WatchProcess {
    child: Child,
    lines: Receiver<Value>,
}

impl WatchProcess {
    /// Starts the command.
    pub(crate) fn start() -> Result<Self> {
        let mut child = command(&["watch", "--json", "--interval", "1s"]).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("no output")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(serde_json::from_str(&line).unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for an event about a device.
    pub(crate) fn expect(&self, event: &str, address: &str) -> Result<Value> {
        let began = Instant::now();
        while let Some(left) = crate::host::PATIENCE.checked_sub(began.elapsed()) {
            let Ok(line) = self.lines.recv_timeout(left) else { break };
            let about = line["device"].as_str().is_some_and(|device| device.contains(address));
            if line["event"] == event && about {
                return Ok(line);
            }
        }
        bail!("watch has not printed the event {event} of {address}")
    }
}

impl Drop for WatchProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that a text contains all words.
pub(crate) fn has_words(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "{text:?} does not contain {word:?}");
    }
    Ok(())
}

/// Removes the assignments of earlier tests, because a new kubelet does not know that those pods have ended.
pub(crate) fn forget_assignments() {
    let _ = fs::remove_dir_all(RUN_DIR);
}
