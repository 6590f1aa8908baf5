//! Starts the kubelet in a mount namespace with a /var/lib/kubelet of its own.

use crate::{DeviceManager, PodSpec};
use anyhow::Context;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A program to start, and the channel for the started process.
type Request = (Command, Sender<std::io::Result<Child>>);

/// Starts programs with the privileges that the simulated node gives up. A mount namespace needs CAP_SYS_ADMIN.
#[derive(Clone, Debug)]
pub struct Launcher {
    requests: Sender<Request>,
}

impl Launcher {
    /// Starts a thread that keeps the capabilities that this thread has now. Call this before the node is created.
    #[must_use]
    pub fn start() -> Self {
        let (requests, received): (_, Receiver<Request>) = channel();
        std::thread::spawn(move || {
            for (mut command, reply) in received {
                let _ = reply.send(command.spawn());
            }
        });
        Self { requests }
    }

    fn spawn(&self, command: Command) -> anyhow::Result<Child> {
        let (reply, received) = channel();
        self.requests.send((command, reply)).context("launcher")?;
        Ok(received.recv().context("launcher")??)
    }
}

/// How to start a kubelet.
#[derive(Clone, Debug)]
pub struct KubeletProgram {
    /// The program.
    pub program: PathBuf,
    /// The directory that becomes /var/lib/kubelet.
    pub dir: PathBuf,
    /// The file for the kubelet's log.
    pub log: PathBuf,
}

const NAMESPACE: &str = r#"mount -t tmpfs none /var/lib && mkdir /var/lib/kubelet && mount --bind "$1" /var/lib/kubelet && exec "$2""#;

impl KubeletProgram {
    /// Starts a kubelet. `pods` are the pods that the API server has; `running` names their running containers, as
    /// pairs of pod uid and container name.
    ///
    /// # Errors
    /// The process or its device manager does not start.
    pub fn start(
        &self,
        launcher: &Launcher,
        pods: &[PodSpec],
        running: &[(String, String)],
    ) -> anyhow::Result<DeviceManager> {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh"])
            .args([&self.dir, &self.program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        DeviceManager::start(launcher.spawn(command)?, pods, running)
            .with_context(|| format!("the kubelet's log is {}", self.log.display()))
    }
}
