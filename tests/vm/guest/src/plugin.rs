//! The product's binary, run as an operator and a DaemonSet would, and the kubelet's stand-in beside it.

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
const FOLDER: &str = "/tmp/kubelet/device-plugins";
const POD_RESOURCES: &str = "/tmp/kubelet/pod-resources/kubelet.sock";
pub(crate) const RUN: &str = "/tmp/run";

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    // Devices of no vendor that is offered by default, unless the test brings what names those.
    let named = words.iter().any(|word| ["--pools", "--pci-ids"].contains(word));
    let select: &[&str] = if named { &[] } else { &["--select", "*"] };
    command.args(words).args(select).args([
        "--run-dir",
        RUN,
        "--kubelet-dir",
        FOLDER,
        "--pod-resources",
        POD_RESOURCES,
    ]);
    command.args(["--log-level", "error"]);
    command
}

/// Runs a command to its end: exit code and what it printed.
pub(crate) fn run(words: &[&str]) -> Result<(i32, String)> {
    let output = command(words).output().context(PROGRAM)?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Runs a command that prints JSON.
pub(crate) fn json(words: &[&str]) -> Result<Value> {
    let (_, text) = run(words)?;
    serde_json::from_str(&text).with_context(|| format!("{words:?} printed {text:?}"))
}

/// The devices of `list --json`.
pub(crate) fn list() -> Result<Vec<Value>> {
    list_of(&[])
}

/// The same with options of one's own.
pub(crate) fn list_of(options: &[&str]) -> Result<Vec<Value>> {
    let list = json(&[&["list", "--json"], options].concat())?;
    Ok(list["devices"].as_array().context("no devices")?.clone())
}

/// One of them.
pub(crate) fn listed(address: &str) -> Result<Value> {
    Ok(list()?.into_iter().find(|device| device["address"] == address).unwrap_or_default())
}

/// The pids that `list --json` names as holders.
pub(crate) fn holders(device: &Value) -> Vec<u64> {
    device["holders"].as_array().into_iter().flatten().filter_map(|holder| holder["pid"].as_u64()).collect()
}

/// A kubelet and a running `serve`.
pub(crate) struct Served {
    kubelet: Kubelet,
    runtime: Runtime,
    serve: Child,
}

impl Served {
    /// Starts both, with an interval of a second, and waits for the first list.
    pub(crate) fn start(busy: &str) -> Result<Self> {
        Self::start_every("1s", busy)
    }

    /// The same with another interval.
    pub(crate) fn start_every(interval: &str, busy: &str) -> Result<Self> {
        Self::start_with(&["--busy", busy, "--interval", interval])
    }

    /// The same with options of one's own.
    pub(crate) fn start_with(options: &[&str]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kubelet = runtime.block_on(Kubelet::start(Path::new(FOLDER), Path::new(POD_RESOURCES)))?;
        fs::create_dir_all(RUN)?;
        let serve = command(&[&["serve"], options].concat()).stdin(Stdio::null()).spawn()?;
        let served = Self { kubelet, runtime, serve };
        wait_until("serve has registered", || {
            Ok(served.kubelet.state().resources.values().any(|resource| !resource.devices.is_empty()))
        })?;
        Ok(served)
    }

    /// With the pools of a file, which begins before its first pool; held ones are Unhealthy at once.
    pub(crate) fn of_pools(pools: &str) -> Result<Self> {
        // No kubelet says any more that pods of earlier tests have ended.
        let _ = fs::remove_dir_all(RUN);
        fs::write("/tmp/pools.yaml", format!("pools:\n{pools}"))?;
        Self::start_with(&["--pools", "/tmp/pools.yaml", "--interval", "1s", "--busy", "unhealthy"])
    }

    /// What the kubelet was told of a device.
    pub(crate) fn health(&self, address: &str) -> Option<String> {
        let books = self.kubelet.state();
        books.resources.values().find_map(|resource| resource.health(address)).map(str::to_owned)
    }

    /// Waits until the kubelet was told so; `None`: the device has left its list.
    pub(crate) fn wait_for(&self, address: &str, health: Option<&str>) -> Result<Duration> {
        wait_until(&format!("{address} is {health:?}"), || Ok(self.health(address).as_deref() == health))
    }

    /// The device nodes that a device of the resource is given with.
    pub(crate) fn nodes(&self, resource: &str, address: &str) -> Result<Vec<String>> {
        let ids = [address.to_owned()];
        let answers = self.runtime.block_on(self.kubelet.allocate(resource, &[&ids]));
        let answers = answers.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
        Ok(answers.into_iter().flat_map(|answer| answer.devices).map(|device| device.host_path).collect())
    }

    /// What a container with these devices of the resource is given.
    pub(crate) fn given(&self, resource: &str, addresses: &[&str]) -> Result<Given> {
        let ids: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        let answers = self.runtime.block_on(self.kubelet.allocate(resource, &[&ids]));
        let answers =
            answers.map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()))?;
        let answer = answers.into_iter().next().context("no answer for the container")?;
        let nodes = answer.devices.into_iter().map(|device| device.host_path).collect();
        Ok(Given { variables: answer.envs.into_iter().collect(), nodes })
    }

    /// The NUMA nodes of a device in the kubelet's list.
    pub(crate) fn topology(&self, address: &str) -> Vec<i64> {
        let books = self.kubelet.state();
        let devices = books.resources.values().flat_map(|resource| &resource.devices);
        let device = devices.filter(|device| device.id == address);
        device
            .flat_map(|device| &device.topology)
            .flat_map(|topology| &topology.nodes)
            .map(|node| node.id)
            .collect()
    }

    /// Which of these the kubelet is advised to give.
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

    /// Allocates one device; the refusal's code and text as the error.
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

/// What a container was given.
pub(crate) struct Given {
    variables: Vec<(String, String)>,
    /// Device nodes, in the answer's order.
    pub(crate) nodes: Vec<String>,
}

impl Given {
    /// Fails unless it is just this variable and just these nodes.
    pub(crate) fn is(&self, variable: (&str, &str), nodes: &[&str]) -> Result<()> {
        let (name, value) = variable;
        ensure!(self.variables == [(name.to_owned(), value.to_owned())], "variables: {:?}", self.variables);
        ensure!(self.nodes == nodes, "nodes: {:?}", self.nodes);
        Ok(())
    }

    /// One of the nodes.
    pub(crate) fn node(&self, place: usize) -> Result<&str> {
        Ok(self.nodes.get(place).context("fewer nodes")?)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}

/// A running `watch --json`.
pub(crate) struct Watching {
    child: Child,
    lines: Receiver<Value>,
}

impl Watching {
    /// Starts it.
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
        bail!("watch has not said {event} {address}")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails unless a text has all words.
pub(crate) fn has_words(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "{text:?} does not say {word:?}");
    }
    Ok(())
}
