//! The socket on which `serve` tells its state, one JSON document a connection, and its client.

use crate::advertise::Board;
use crate::monitoring::Monitoring;
use crate::owners::Owners;
use crate::serve::Registry;
use crate::snapshot::DeviceReport;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::time::timeout;

/// A client that does not read for this long is left alone.
const WRITE: Duration = Duration::from_secs(2);
/// 256 devices make some 150 kB.
const LONGEST: u64 = 16 << 20;

/// What `serve` tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its version.
    pub(crate) version: String,
    /// Its policy.
    pub(crate) busy: String,
    /// How long it has run.
    pub(crate) uptime_ms: u64,
    /// How long ago its monitor was last seen alive.
    pub(crate) silent_ms: u64,
    /// Whether the first picture is whole.
    pub(crate) settled: bool,
    /// Its resources.
    pub(crate) resources: Vec<ResourceStatus>,
    /// Its devices, with what the kubelet was told.
    pub(crate) devices: Vec<DeviceReport>,
}

/// One resource's registration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ResourceStatus {
    /// Its name.
    pub(crate) name: String,
    /// The kubelet has accepted it.
    pub(crate) registered: bool,
    /// Streams open now.
    pub(crate) streams: usize,
    /// Our socket's file name.
    pub(crate) endpoint: String,
    /// Registrations in a row that the kubelet has accepted and not followed.
    #[serde(default)]
    pub(crate) unfollowed: u32,
}

/// What the socket's answers are made of.
pub(crate) struct Server {
    pub(crate) monitoring: Monitoring,
    pub(crate) board: Arc<Board>,
    pub(crate) owners: Owners,
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
        let snapshot = self.monitoring.snapshots.borrow().clone();
        StatusReport {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            busy: self.board.busy().to_string(),
            uptime_ms: millis(self.monitoring.age()),
            silent_ms: millis(self.monitoring.silence()),
            settled: snapshot.is_some(),
            resources: self.registry.resources(),
            devices: snapshot
                .map(|snapshot| self.board.reports(&snapshot, &self.owners.current()))
                .unwrap_or_default(),
        }
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

/// Connects by a deadline: where nobody accepts any more, a connect waits for ever (`unix_stream_connect`).
///
/// # Errors
/// Nobody listens, or nobody accepts in time.
pub(crate) fn connect(path: &Path, deadline: Duration) -> std::io::Result<UnixStream> {
    let (sender, answer) = std::sync::mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || sender.send(UnixStream::connect(path)));
    answer.recv_timeout(deadline).unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Asks the running `serve`.
///
/// # Errors
/// None runs, it does not answer within `deadline`, or it speaks something else.
pub(crate) fn fetch(run_dir: &Path, deadline: Duration) -> anyhow::Result<StatusReport> {
    let path = path(run_dir);
    let until = Instant::now() + deadline;
    let mut stream =
        connect(&path, deadline).with_context(|| format!("no serve answers at {}", path.display()))?;
    let mut text = Vec::new();
    let mut part = [0; 64 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || u64::try_from(text.len()).unwrap_or(LONGEST) >= LONGEST {
            bail!("{}: no whole answer within {deadline:?}", path.display());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part).with_context(|| format!("{}", path.display()))? {
            0 => break,
            length => text.extend_from_slice(part.get(..length).unwrap_or_default()),
        }
    }
    serde_json::from_slice(&text).with_context(|| format!("{}: not an answer of serve", path.display()))
}
