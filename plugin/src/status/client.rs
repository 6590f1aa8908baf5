//! Reads the state of a running `serve` from its status socket.

use crate::status::path;
use crate::status::report::StatusReport;
use anyhow::{Context, bail};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a command waits for a running `serve` to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is accepted, in bytes. A report of 256 devices has about 150 kB.
const MAX_LENGTH: usize = 16 << 20;

/// Connects to a Unix socket and blocks for at most `timeout`.
///
/// A thread of its own connects, because a connect to a socket whose backlog is full blocks without limit
/// (`unix_stream_connect`). After a timeout the thread stays until its connect returns.
///
/// # Errors
/// The error of the connect; `TimedOut` if the listener did not accept in time.
pub(crate) fn connect(path: &Path, timeout: Duration) -> std::io::Result<UnixStream> {
    let (sender, connected) = std::sync::mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || sender.send(UnixStream::connect(path)));
    connected.recv_timeout(timeout).unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Returns the report of the running `serve`. Blocks for at most `timeout`.
///
/// # Errors
/// No `serve` runs, it does not answer in time, or its answer is no report of this version.
pub(crate) fn fetch(run_dir: &Path, timeout: Duration) -> anyhow::Result<StatusReport> {
    let path = path(run_dir);
    let deadline = Instant::now() + timeout;
    let mut stream =
        connect(&path, timeout).with_context(|| format!("no serve answers at {}", path.display()))?;
    let mut text = Vec::new();
    let mut part = [0; 64 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || text.len() >= MAX_LENGTH {
            bail!("{}: serve sent no complete answer within {timeout:?}; is it stopped?", path.display());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(part.get(..length).unwrap_or_default()),
            // The read timed out, or a signal came: the deadline decides.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    serde_json::from_slice(&text).with_context(|| {
        format!("{}: the answer is no status report; is it another version?", path.display())
    })
}
