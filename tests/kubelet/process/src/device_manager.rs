//! Drives the kubelet's device manager in a process (tests/kubelet): one JSON line per request, one per reply.

use crate::{ContainerAllocation, PodSpec};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout};

#[derive(Debug, Default, Deserialize)]
struct Reply {
    ok: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    rejected: BTreeMap<String, String>,
    #[serde(default)]
    containers: BTreeMap<String, ContainerAllocation>,
    #[serde(default)]
    capacity: BTreeMap<String, usize>,
    #[serde(default)]
    allocatable: BTreeMap<String, usize>,
    #[serde(default)]
    healthy: BTreeMap<String, Vec<String>>,
    samples: Option<Samples>,
}

/// What sampling has found.
#[derive(Clone, Debug, Deserialize)]
pub struct Samples {
    /// For how many microseconds fewer devices than wanted were allocatable.
    pub gap_us: u64,
    /// The lowest number of allocatable devices.
    pub lowest: usize,
    /// The number of samples.
    pub count: u64,
    /// The longest time between two samples, in microseconds. A shorter gap could be missed.
    pub pause_us: u64,
    /// One sample for every 200 ms.
    pub kept: Vec<usize>,
}

/// A running device manager. Dropping it kills the process.
#[derive(Debug)]
pub struct DeviceManager {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The kubelet's version.
    pub version: String,
    /// Pods that the device manager did not admit again at its start, by uid, with the reason.
    pub rejected: BTreeMap<String, String>,
}

impl DeviceManager {
    /// Takes over a process that was started with pipes, and starts its device manager. `pods` are the pods that the
    /// API server has; `running` names their running containers, as pairs of pod uid and container name.
    ///
    /// # Errors
    /// The process has no pipes, has ended, or the device manager does not start.
    pub fn start(mut child: Child, pods: &[PodSpec], running: &[(String, String)]) -> anyhow::Result<Self> {
        let input = child.stdin.take().context("the kubelet's standard input is not a pipe")?;
        let output =
            BufReader::new(child.stdout.take().context("the kubelet's standard output is not a pipe")?);
        let rejected = BTreeMap::new();
        let mut manager = Self { child, input, output, version: String::new(), rejected };
        let running: Vec<_> = running
            .iter()
            .map(|(uid, container)| serde_json::json!({"uid": uid, "container": container}))
            .collect();
        let reply = manager.call(&serde_json::json!({"op": "start", "pods": pods, "running": running}))?;
        if !reply.ok {
            bail!("{}", reply.error);
        }
        manager.version = reply.version;
        manager.rejected = reply.rejected;
        Ok(manager)
    }

    fn call(&mut self, request: &serde_json::Value) -> anyhow::Result<Reply> {
        writeln!(self.input, "{request}").context("the kubelet has ended")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line)
            .with_context(|| format!("the kubelet replied {line:?}, which is no reply"))
    }

    /// Admits a pod. Returns what its containers are allocated, or why the pod is not admitted.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn admit(
        &mut self,
        pod: &PodSpec,
    ) -> anyhow::Result<Result<BTreeMap<String, ContainerAllocation>, String>> {
        let reply = self.call(&serde_json::json!({"op": "admit", "pod": pod}))?;
        Ok(if reply.ok { Ok(reply.containers) } else { Err(reply.error) })
    }

    /// Creates a container of an admitted pod. Returns what it is allocated, or why it is not created.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn run(&mut self, uid: &str, container: &str) -> anyhow::Result<Result<ContainerAllocation, String>> {
        let mut reply = self.call(&serde_json::json!({"op": "run", "uid": uid, "container": container}))?;
        let allocation = reply.containers.remove(container).unwrap_or_default();
        Ok(if reply.ok { Ok(allocation) } else { Err(reply.error) })
    }

    /// Removes a pod: it is no longer active.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn remove(&mut self, uid: &str) -> anyhow::Result<()> {
        self.call(&serde_json::json!({"op": "remove", "uid": uid})).map(drop)
    }

    /// Returns capacity and allocatable of a resource, as the node object shows them.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn capacity(&mut self, resource: &str) -> anyhow::Result<(usize, usize)> {
        let reply = self.call(&serde_json::json!({"op": "capacity"}))?;
        let of = |counts: &BTreeMap<String, usize>| counts.get(resource).copied().unwrap_or(0);
        Ok((of(&reply.capacity), of(&reply.allocatable)))
    }

    /// Returns the devices of a resource that are healthy or allocated (`GetAllocatableDevices`).
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn healthy(&mut self, resource: &str) -> anyhow::Result<BTreeSet<String>> {
        let mut reply = self.call(&serde_json::json!({"op": "devices"}))?;
        Ok(reply.healthy.remove(resource).unwrap_or_default().into_iter().collect())
    }

    /// Starts to ask for allocatable devices of a resource without a pause, beside all other requests. Fewer than `wanted` are
    /// a gap.
    ///
    /// # Errors
    /// The kubelet has ended, or samples already.
    pub fn start_sampling(&mut self, resource: &str, wanted: usize) -> anyhow::Result<()> {
        let request = serde_json::json!({"op": "sample", "on": true, "resource": resource, "wanted": wanted});
        let reply = self.call(&request)?;
        if !reply.ok {
            bail!("{}", reply.error);
        }
        Ok(())
    }

    /// Ends the sampling.
    ///
    /// # Errors
    /// The kubelet has ended, or does not sample.
    pub fn end_sampling(&mut self) -> anyhow::Result<Samples> {
        let reply = self.call(&serde_json::json!({"op": "sample", "on": false}))?;
        reply.samples.with_context(|| format!("no samples: {}", reply.error))
    }

    /// Starts or stops the pod resources service.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn serve_pod_resources(&mut self, on: bool) -> anyhow::Result<()> {
        self.call(&serde_json::json!({"op": "pod_resources", "on": on})).map(drop)
    }
}

impl Drop for DeviceManager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
