//! Reads the state of a running `serve` from its status socket.

use crate::bounded_json::{self, JsonError, JsonLimits};
use crate::files::{self, Links};
use crate::status::path;
use crate::status::report::StatusReport;
use anyhow::{Context, Error, anyhow};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a command waits for a running `serve` to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a process may take to accept the connection that asks only who it is.
const PEER: Duration = Duration::from_millis(200);
/// Limit for /proc/PID/cgroup in bytes.
const CGROUP: u64 = 64 << 10;
/// Limits for an answer. The report of a device has about 600 bytes and 25 values.
pub(crate) const LIMITS: JsonLimits =
    JsonLimits { bytes: 16 << 20, string: 64 << 10, depth: 32, values: 500_000 };

/// Returns whether this node is meant to run `serve`: the kubelet's directory or the status socket exists, or this process may not know.
/// On a node without Kubernetes, the commands do not miss a `serve`.
pub(crate) fn is_expected(kubelet_dir: &Path, run_dir: &Path) -> bool {
    let is_missing = |path: &Path| path.try_exists().is_ok_and(|exists| !exists);
    !is_missing(kubelet_dir) || !is_missing(&path(run_dir))
}

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
    fetch_from(&path(run_dir), timeout)
}

/// Returns whether the process that listens on a socket is in this process's container: it is visible here, and has the same cgroup.
///
/// A process in another pid namespace has no pid here (`cred_to_ucred`). With `hostPID`, each container still has a cgroup of its own. A
/// process that does not accept within 200 ms is none of this container.
pub(crate) fn is_of_this_container(socket: &Path) -> bool {
    let Some(pid) = connect(socket, PEER).ok().and_then(|stream| peer(stream).ok()).filter(|pid| *pid > 0)
    else {
        return false;
    };
    let cgroup =
        |process: u32| files::read(Path::new(&format!("/proc/{process}/cgroup")), Links::Follow, CGROUP).ok();
    let own = cgroup(std::process::id());
    own.is_some() && own == cgroup(pid)
}

/// Returns the process at the other end of a stream; 0 if it is in a pid namespace that this process does not see. By tokio, because
/// rustix's `UCred` cannot have that 0.
fn peer(stream: UnixStream) -> std::io::Result<u32> {
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    let pid = tokio::net::UnixStream::from_std(stream)?.peer_cred()?.pid();
    Ok(pid.and_then(|pid| pid.try_into().ok()).unwrap_or(0))
}

/// Returns the report of the process that listens on a socket. Blocks for at most `timeout`.
///
/// # Errors
/// As [`fetch`].
pub(crate) fn fetch_from(path: &Path, timeout: Duration) -> anyhow::Result<StatusReport> {
    let deadline = Instant::now() + timeout;
    let stream = connect(path, timeout).with_context(|| format!("no serve answers at {}", path.display()))?;
    bounded_json::read(UntilDeadline { stream, deadline }, LIMITS).map_err(|error| match error {
        JsonError::Read(error) if error.kind() == ErrorKind::TimedOut => {
            anyhow!("{}: serve sent no complete answer within {timeout:?}; is it stopped?", path.display())
        }
        JsonError::Read(error) => Error::new(error).context(format!("cannot read {}", path.display())),
        error => Error::new(error)
            .context(format!("{}: the answer is no status report; is it another version?", path.display())),
    })
}

/// A stream that fails with `TimedOut` after a deadline.
struct UntilDeadline {
    stream: UnixStream,
    deadline: Instant,
}

impl Read for UntilDeadline {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                // The read timed out, or a signal came: the deadline decides.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                result => return result,
            }
        }
    }
}
