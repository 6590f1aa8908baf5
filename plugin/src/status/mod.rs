//! The socket on which `serve` tells its state, one JSON document a connection, and its client.

pub(crate) mod client;
pub(crate) mod report;

use crate::assignments::AssignmentsHandle;
use crate::kubelet::registry::Registry;
use crate::node::monitor::MonitorHandle;
use crate::publisher::HealthPublisher;
use crate::status::report::{DeviceReport, StatusReport};
use anyhow::{Context, bail};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::time::timeout;
use vfio_plugin_policy::device::NodeSnapshot;

/// A client that does not read for this long is left alone.
const WRITE: Duration = Duration::from_secs(2);

/// What the socket's answers are made of.
pub(crate) struct Server {
    pub(crate) monitor: MonitorHandle,
    pub(crate) publisher: Arc<HealthPublisher>,
    pub(crate) owners: AssignmentsHandle,
    pub(crate) registry: Arc<Registry>,
}

/// The socket's file, removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("status.sock")
}

impl Server {
    /// Begins to answer. Without the socket the plugin does its work all the same.
    pub(crate) fn start(self, run_dir: &Path) -> Option<SocketFile> {
        match listen(run_dir) {
            Ok(listener) => {
                tokio::spawn(self.answer(listener));
                Some(SocketFile(path(run_dir)))
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "no status socket: list, ready and doctor will not see us"
                );
                None
            }
        }
    }

    async fn answer(self, listener: UnixListener) {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                // Out of descriptors, say: a moment later it may be better.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let report = serde_json::to_vec(&self.report()).unwrap_or_default();
            // One that does not read must not keep the next one waiting.
            tokio::spawn(async move {
                let _ = timeout(WRITE, async {
                    let _ = stream.write_all(&report).await;
                    let _ = stream.shutdown().await;
                })
                .await;
            });
        }
    }

    fn report(&self) -> StatusReport {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let snapshot = self.monitor.snapshots.borrow().clone();
        StatusReport {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            busy: self.publisher.busy().to_string(),
            uptime_ms: millis(self.monitor.age()),
            silent_ms: millis(self.monitor.silent_for()),
            settled: snapshot.is_some(),
            resources: self.registry.resources(),
            devices: snapshot.map(|snapshot| self.devices(&snapshot)).unwrap_or_default(),
        }
    }
}

impl Server {
    /// All devices as `list` prints them.
    fn devices(&self, snapshot: &NodeSnapshot) -> Vec<DeviceReport> {
        let mut devices = Vec::new();
        self.publisher.visit(snapshot, &self.owners.current(), |view, told, assignment| {
            devices.push(DeviceReport::new(view, told, assignment.map(|assignment| &assignment.pod)));
        });
        devices
    }
}

fn listen(run_dir: &Path) -> anyhow::Result<UnixListener> {
    let path = path(run_dir);
    std::fs::create_dir_all(run_dir).with_context(|| format!("{}", run_dir.display()))?;
    if path.exists() {
        if UnixStream::connect(&path).is_ok() {
            bail!("{}: another one serves there", path.display());
        }
        std::fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
    }
    UnixListener::bind(&path).with_context(|| format!("{}", path.display()))
}
