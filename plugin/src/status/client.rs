//! The client of the status socket.

use crate::status::path;
use crate::status::report::StatusReport;
use anyhow::{Context, bail};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a running `serve` may take to answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(2);
/// 256 devices make some 150 kB.
const LONGEST: u64 = 16 << 20;

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
