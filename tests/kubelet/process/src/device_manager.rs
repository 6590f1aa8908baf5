//! What the process is asked, a JSON line for each question and answer.

use crate::{Given, PodSpec};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout};

#[derive(Debug, Default, Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    rejected: BTreeMap<String, String>,
    #[serde(default)]
    containers: BTreeMap<String, Given>,
    #[serde(default)]
    capacity: BTreeMap<String, usize>,
    #[serde(default)]
    allocatable: BTreeMap<String, usize>,
    #[serde(default)]
    healthy: BTreeMap<String, Vec<String>>,
}

/// A running device manager; killed when dropped.
#[derive(Debug)]
pub struct DeviceManager {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The kubelet's version.
    pub version: String,
    /// Pods that were not admitted again, and why.
    pub rejected: BTreeMap<String, String>,
}

impl DeviceManager {
    /// Takes over a process that was started with pipes, and starts it with the pods that the API server knows; `running`
    /// are those of their containers that run, by pod uid and name.
    ///
    /// # Errors
    /// The process has no pipes, has ended, or could not begin.
    pub fn start(mut child: Child, pods: &[PodSpec], running: &[(String, String)]) -> anyhow::Result<Self> {
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let rejected = BTreeMap::new();
        let mut manager = Self { child, input, output, version: String::new(), rejected };
        let running: Vec<_> = running
            .iter()
            .map(|(uid, container)| serde_json::json!({"uid": uid, "container": container}))
            .collect();
        let answer = manager.tell(&serde_json::json!({"op": "start", "pods": pods, "running": running}))?;
        if !answer.ok {
            bail!("{}", answer.error);
        }
        manager.version = answer.version;
        manager.rejected = answer.rejected;
        Ok(manager)
    }

    fn tell(&mut self, question: &serde_json::Value) -> anyhow::Result<Answer> {
        writeln!(self.input, "{question}").context("the kubelet has ended")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the kubelet said {line:?}"))
    }

    /// Admits a pod: what its containers were given, or why not.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn admit(&mut self, pod: &PodSpec) -> anyhow::Result<Result<BTreeMap<String, Given>, String>> {
        let answer = self.tell(&serde_json::json!({"op": "admit", "pod": pod}))?;
        Ok(if answer.ok { Ok(answer.containers) } else { Err(answer.error) })
    }

    /// A container is created: what it is given, or why not.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn run(&mut self, uid: &str, container: &str) -> anyhow::Result<Result<Given, String>> {
        let mut answer = self.tell(&serde_json::json!({"op": "run", "uid": uid, "container": container}))?;
        let given = answer.containers.remove(container).unwrap_or_default();
        Ok(if answer.ok { Ok(given) } else { Err(answer.error) })
    }

    /// A pod is no longer active.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn remove(&mut self, uid: &str) -> anyhow::Result<()> {
        self.tell(&serde_json::json!({"op": "remove", "uid": uid})).map(drop)
    }

    /// Capacity and allocatable of a resource, as the node object would show them.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn capacity(&mut self, resource: &str) -> anyhow::Result<(usize, usize)> {
        let answer = self.tell(&serde_json::json!({"op": "capacity"}))?;
        let of = |counts: &BTreeMap<String, usize>| counts.get(resource).copied().unwrap_or(0);
        Ok((of(&answer.capacity), of(&answer.allocatable)))
    }

    /// The devices of a resource that it may give to pods, or has given (`GetAllocatableDevices`).
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn healthy(&mut self, resource: &str) -> anyhow::Result<BTreeSet<String>> {
        let mut answer = self.tell(&serde_json::json!({"op": "devices"}))?;
        Ok(answer.healthy.remove(resource).unwrap_or_default().into_iter().collect())
    }

    /// Whether pod resources are served.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub fn serve_pod_resources(&mut self, on: bool) -> anyhow::Result<()> {
        self.tell(&serde_json::json!({"op": "pod_resources", "on": on})).map(drop)
    }
}

impl Drop for DeviceManager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
