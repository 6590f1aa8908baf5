//! Starts the kubelet with a /var/lib/kubelet of its own.

use anyhow::Context;
use kubelet_process::{DeviceManager, PodSpec};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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

impl Place {
    /// Starts a kubelet with the pods that the API server knows, and says which of their containers run.
    pub(crate) fn start(
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
            .args([&self.folder, &self.program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        DeviceManager::start(launcher.spawn(command)?, pods, running)
            .with_context(|| format!("the kubelet's log is {}", self.log.display()))
    }
}
