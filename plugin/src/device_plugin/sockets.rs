//! The names of the plugin's sockets in the kubelet's directory and of the processes' sockets in the run directory, and the removal of
//! those that a killed process left behind.

use crate::files::names;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// A connect to a local socket is decided at once; the limit is for certainty.
const CONNECT: Duration = Duration::from_millis(100);
/// The time between the two checks of a socket. A process listens a few microseconds after its bind.
const CHECK_AGAIN: Duration = Duration::from_millis(500);
/// Limit for the sockets that are checked in one call. The others stay until the next start.
const MAX_SOCKETS: usize = 1000;

/// Returns a new name, like `vfio-1a2b-9f3c55e0.sock`.
///
/// It is short because a socket's address has 108 bytes. It is never used twice: kubelets from 1.37 on refuse a path that is
/// still connected, and older ones confuse the old connection with the new one.
pub(crate) fn new_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let unique = u64::try_from(now).unwrap_or_default().wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
    format!("vfio-{:x}-{:x}.sock", std::process::id(), unique & 0xffff_ffff)
}

/// Returns whether a file name is one that [`new_name`] makes, in this or another process.
pub(crate) fn is_ours(name: &str) -> bool {
    let is_hex = |text: &str| {
        (1..=8).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let middle = name.strip_prefix("vfio-").and_then(|name| name.strip_suffix(".sock"));
    middle
        .and_then(|middle| middle.split_once('-'))
        .is_some_and(|(pid, unique)| is_hex(pid) && is_hex(unique))
}

/// Removes the sockets of this plugin on which no process listens. Sockets of other programs stay, and so does anything that is no
/// socket. `own` is the name of a socket of this process, which it does not connect to.
///
/// A socket is removed only if it is the same, without a listener, at two checks: a process that is just starting has bound its
/// socket and does not listen yet.
///
/// Never waits for another process: where a stopped process has let its backlog fill up, a blocking connect would wait without end
/// (`unix_stream_connect`), and this one fails with EAGAIN, which proves that a process listens.
pub(crate) async fn remove_stale(directory: &Path, own: Option<&str>) {
    let others = |name: &String| is_ours(name) && own.is_none_or(|own| own != name);
    let ours = names(directory).into_iter().filter(others);
    let mut stale = Vec::new();
    for name in ours.take(MAX_SOCKETS) {
        let path = directory.join(name);
        if let Some(id) = is_deserted(&path).await {
            stale.push((path, id));
        }
    }
    if stale.is_empty() {
        return;
    }
    sleep(CHECK_AGAIN).await;
    for (path, id) in stale {
        if is_deserted(&path).await == Some(id) && std::fs::remove_file(&path).is_ok() {
            tracing::info!(socket = %path.display(), "removed a socket on which no process listens");
        }
    }
}

/// Returns the identity of a socket on which no process listens; none for anything else.
async fn is_deserted(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    if !metadata.file_type().is_socket() {
        return None;
    }
    let connected = timeout(CONNECT, UnixStream::connect(path)).await;
    let is_refused = matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused);
    is_refused.then(|| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tokio::net::UnixSocket;

    /// Returns a socket that listens with room for one connection, which is taken: a blocking connect waits.
    fn full(path: &Path) -> (tokio::net::UnixListener, Vec<UnixSocket>) {
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(path).unwrap();
        (socket.listen(0).unwrap(), Vec::new())
    }

    #[tokio::test]
    async fn sockets_without_a_listener_are_removed_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let bind = |name: &str| std::os::unix::net::UnixListener::bind(path(name)).unwrap();
        drop((bind("vfio-1a-2b.sock"), bind("vfio-manager.sock"), bind("nvidia-1a-2b.sock")));
        std::fs::write(path("vfio-3c-4d.sock"), "a file").unwrap();
        let _alive = bind("vfio-5e-6f.sock");
        let (_listener, _) = full(&path("vfio-7a-8b.sock"));
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(path("vfio-7a-8b.sock")).await {
            waiting.push(stream);
        }
        remove_stale(directory.path(), None).await;
        let left = std::fs::read_dir(directory.path()).unwrap().flatten();
        let left: BTreeSet<String> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
        let expected = [
            "nvidia-1a-2b.sock",
            "vfio-3c-4d.sock",
            "vfio-5e-6f.sock",
            "vfio-7a-8b.sock",
            "vfio-manager.sock",
        ];
        assert_eq!(left, expected.map(str::to_owned).into());
    }

    #[tokio::test]
    async fn socket_that_is_bound_and_not_yet_listening_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vfio-1a-2b.sock");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        assert!(is_deserted(&path).await.is_some());
        let (removed, _listener) = tokio::join!(remove_stale(directory.path(), None), async {
            sleep(CHECK_AGAIN / 2).await;
            socket.listen(1).unwrap()
        });
        assert!(path.exists(), "{removed:?}");
    }

    #[tokio::test]
    async fn link_and_other_kinds_of_sockets_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        drop(std::os::unix::net::UnixListener::bind(path("theirs.sock")).unwrap());
        std::os::unix::fs::symlink("theirs.sock", path("vfio-1a-2b.sock")).unwrap();
        let _datagrams = std::os::unix::net::UnixDatagram::bind(path("vfio-3c-4d.sock")).unwrap();
        remove_stale(directory.path(), None).await;
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[tokio::test]
    async fn own_socket_gets_no_connection() {
        let directory = tempfile::tempdir().unwrap();
        let bind = |name: &str| {
            let socket = std::os::unix::net::UnixListener::bind(directory.path().join(name)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let (own, other) = (bind("vfio-1a-2b.sock"), bind("vfio-1a-2c.sock"));
        remove_stale(directory.path(), Some("vfio-1a-2b.sock")).await;
        assert_eq!(own.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(other.accept().is_ok());
    }

    #[test]
    fn new_names_are_unique_and_recognised() {
        let names: BTreeSet<String> = (0..100).map(|_| new_name()).collect();
        assert_eq!(names.len(), 100);
        assert!(names.iter().all(|name| is_ours(name) && name.len() < 28));
        for name in ["vfio-.sock", "vfio-1a.sock", "vfio-1a-.sock", "vfio-1a-XY.sock", "vfio-1a-2b.sock.old"]
        {
            assert!(!is_ours(name), "{name}");
        }
    }
}
