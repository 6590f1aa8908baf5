//! The kubelet's own device manager as a process (tests/kubelet), with a /var/lib/kubelet of its own.

use crate::pods::{Given, PodSpec};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A program to start, and whom to tell of it.
type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts programs with the privileges that the simulated node gives up: a mount namespace takes CAP_SYS_ADMIN.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    orders: Sender<Order>,
}

impl Launcher {
    /// A thread that keeps what this one has now. To be called before the node is made.
    pub(crate) fn start() -> Self {
        let (orders, taken): (_, Receiver<Order>) = channel();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                let _ = answer.send(command.spawn());
            }
        });
        Self { orders }
    }

    fn spawn(&self, command: Command) -> anyhow::Result<Child> {
        let (answer, taken) = channel();
        self.orders.send((command, answer)).context("launcher")?;
        Ok(taken.recv().context("launcher")??)
    }
}

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
pub(crate) struct DeviceManager {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The kubelet's version.
    pub(crate) version: String,
    /// Pods that were not admitted again, and why.
    pub(crate) rejected: BTreeMap<String, String>,
}

/// Where to start one.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The program.
    pub(crate) program: PathBuf,
    /// The folder that is its /var/lib/kubelet.
    pub(crate) folder: PathBuf,
    /// Its log.
    pub(crate) log: PathBuf,
}

const NAMESPACE: &str = r#"mount -t tmpfs none /var/lib && mkdir /var/lib/kubelet && mount --bind "$1" /var/lib/kubelet && exec "$2""#;

impl DeviceManager {
    /// Starts it with the pods that the API server knows, and says which of their containers run.
    pub(crate) fn start(
        launcher: &Launcher,
        place: &Place,
        pods: &[PodSpec],
        running: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let log = File::options().create(true).append(true).open(&place.log)?;
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh"])
            .args([&place.folder, &place.program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = launcher.spawn(command)?;
        let input = child.stdin.take().context("stdin")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        let rejected = BTreeMap::new();
        let mut manager = Self { child, input, output, version: String::new(), rejected };
        let running: Vec<_> = running
            .iter()
            .map(|(uid, container)| serde_json::json!({"uid": uid, "container": container}))
            .collect();
        let answer =
            manager.ask(&serde_json::json!({"op": "start", "pods": pods, "running": running}), &place.log)?;
        manager.version = answer.version;
        manager.rejected = answer.rejected;
        Ok(manager)
    }

    fn ask(&mut self, question: &serde_json::Value, log: &Path) -> anyhow::Result<Answer> {
        let answer =
            self.tell(question).with_context(|| format!("the kubelet's log is {}", log.display()))?;
        if !answer.ok {
            bail!("{}", answer.error);
        }
        Ok(answer)
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
    pub(crate) fn admit(&mut self, pod: &PodSpec) -> anyhow::Result<Result<BTreeMap<String, Given>, String>> {
        let answer = self.tell(&serde_json::json!({"op": "admit", "pod": pod}))?;
        Ok(if answer.ok { Ok(answer.containers) } else { Err(answer.error) })
    }

    /// A container is created: what it is given, or why not.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub(crate) fn run(&mut self, uid: &str, container: &str) -> anyhow::Result<Result<Given, String>> {
        let mut answer = self.tell(&serde_json::json!({"op": "run", "uid": uid, "container": container}))?;
        let given = answer.containers.remove(container).unwrap_or_default();
        Ok(if answer.ok { Ok(given) } else { Err(answer.error) })
    }

    /// A pod is no longer active.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub(crate) fn remove(&mut self, uid: &str) -> anyhow::Result<()> {
        self.tell(&serde_json::json!({"op": "remove", "uid": uid})).map(drop)
    }

    /// Capacity and allocatable of a resource, as the node object would show them.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub(crate) fn capacity(&mut self, resource: &str) -> anyhow::Result<(usize, usize)> {
        let answer = self.tell(&serde_json::json!({"op": "capacity"}))?;
        let of = |counts: &BTreeMap<String, usize>| counts.get(resource).copied().unwrap_or(0);
        Ok((of(&answer.capacity), of(&answer.allocatable)))
    }

    /// The devices of a resource that it may give to pods, or has given (`GetAllocatableDevices`).
    ///
    /// # Errors
    /// The kubelet has ended.
    pub(crate) fn healthy(&mut self, resource: &str) -> anyhow::Result<BTreeSet<String>> {
        let mut answer = self.tell(&serde_json::json!({"op": "devices"}))?;
        Ok(answer.healthy.remove(resource).unwrap_or_default().into_iter().collect())
    }

    /// Whether pod resources are served.
    ///
    /// # Errors
    /// The kubelet has ended.
    pub(crate) fn serve_pod_resources(&mut self, on: bool) -> anyhow::Result<()> {
        self.tell(&serde_json::json!({"op": "pod_resources", "on": on})).map(drop)
    }
}

impl Drop for DeviceManager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
