//! A listener in the run directory, for the status socket and the hand-over socket. It is created again after each failure, and after its
//! file was removed.

use crate::backoff::Backoff;
use crate::file_id::FileId;
use crate::files::{bind_private, set_aside};
use crate::log_once::LogOnce;
use crate::problems::ProblemCode;
use crate::run_dir::RunDir;
use inotify::{EventStream, Inotify, WatchMask};
use parking_lot::Mutex;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

/// Pauses between failed accepts.
const ACCEPT: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
/// Pauses between attempts to make the socket.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// How often the file is checked without inotify.
const CHECK_UNWATCHED: Duration = Duration::from_secs(5);
/// How often it is checked beside inotify, which does not report that its directory was replaced. Each check wakes the process.
const CHECK_WATCHED: Duration = Duration::from_secs(60);
/// How long another process may take to accept a connection.
const CONNECT: Duration = Duration::from_millis(200);

/// The file of the socket that was made, shared by the listener and the guard that removes it.
type Made = Arc<Mutex<Option<FileId>>>;

/// Removes the socket's file when dropped, if it is still the one that this process made.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    made: Made,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let made = self.made.lock().take();
        if made.is_some() && is_there(&self.path, made) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Accepts connections for as long as the process runs.
pub(crate) struct RunDirSocket {
    run_dir: RunDir,
    /// What is missing without the socket, for the log. None if the absence of another socket says enough.
    missing: Option<&'static str>,
    path: PathBuf,
    made: Made,
    listener: Option<UnixListener>,
    /// The events of the socket's file. None without inotify.
    events: Option<EventStream<[u8; 1024]>>,
    retry: Backoff,
    /// Pauses between failed accepts.
    accept: Backoff,
    logged: LogOnce<String>,
}

/// Returns the guard and the socket `name` of this run directory; nothing is made yet. `missing` is the warning while there is none.
pub(crate) fn new(run_dir: &RunDir, name: &str, missing: Option<&'static str>) -> (SocketFile, RunDirSocket) {
    let (run_dir, path) = (run_dir.clone(), run_dir.file(name));
    let made = Made::default();
    let file = SocketFile { path: path.clone(), made: Arc::clone(&made) };
    let logged = LogOnce::default();
    (
        file,
        RunDirSocket {
            run_dir,
            missing,
            path,
            made,
            listener: None,
            events: None,
            retry: RETRY,
            accept: ACCEPT,
            logged,
        },
    )
}

impl RunDirSocket {
    /// Waits for the next connection.
    pub(crate) async fn accept(&mut self) -> UnixStream {
        loop {
            let made = *self.made.lock();
            let accepted = match &self.listener {
                None => Err(Error::from(ErrorKind::NotConnected)),
                Some(_) if !is_there(&self.path, made) => Err(Error::from(ErrorKind::NotFound)),
                Some(listener) => {
                    let check = if self.events.is_some() { CHECK_WATCHED } else { CHECK_UNWATCHED };
                    tokio::select! {
                        accepted = listener.accept() => accepted.map(|(stream, _)| stream),
                        () = changed(&mut self.events) => continue,
                        () = sleep(check) => continue,
                    }
                }
            };
            match accepted {
                Ok(stream) => {
                    self.accept.reset();
                    self.run_dir.problems.end(ProblemCode::AcceptFailed, self.path.display());
                    return stream;
                }
                Err(error) => self.recover(&error).await,
            }
        }
    }

    /// Makes the socket if it is not there, else waits before the next accept (out of descriptors, say).
    async fn recover(&mut self, error: &Error) {
        if self.listener.is_some() && error.kind() != ErrorKind::NotFound {
            let (socket, text) = (self.path.display(), format!("connections get no answer: {error}"));
            if self.run_dir.problems.begin(ProblemCode::AcceptFailed, &socket, text) {
                tracing::warn!(%socket, %error, "cannot accept a connection; trying again");
            }
            sleep(self.accept.pause()).await;
            return;
        }
        let was_there = self.listener.take().is_some();
        self.events = None;
        if was_there && let Err(error) = self.run_dir.create() {
            // Binding the socket fails as well, and says so.
            tracing::debug!(%error, "the run directory cannot be created again");
        }
        match self.listen().await {
            Ok((listener, id)) => {
                *self.made.lock() = Some(id);
                self.listener = Some(listener);
                self.events = watch(&self.path).ok();
                self.retry.reset();
                self.logged.clear();
            }
            Err(error) => {
                let socket = self.path.display();
                if let Some(missing) = self.missing
                    && self.logged.is_new(error.to_string())
                {
                    tracing::warn!(%socket, %error, "{missing}");
                }
                sleep(self.retry.pause()).await;
            }
        }
    }

    /// Makes the socket.
    async fn listen(&self) -> std::io::Result<(UnixListener, FileId)> {
        let path = &self.path;
        let listener = match bind_private(path) {
            Ok(listener) => listener,
            Err(_) => {
                self.make_room().await?;
                bind_private(path)?
            }
        };
        Ok((listener, FileId::of(path)?))
    }

    /// Creates the directory, and removes a socket that a killed process left behind. Anything else that has the socket's name is
    /// kept aside.
    async fn make_room(&self) -> std::io::Result<()> {
        self.run_dir.create()?;
        let path = &self.path;
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => remove_deserted(path).await,
            // A link would lead to another program's socket.
            Ok(_) => {
                let kept = set_aside(path)?;
                let (file, kept) = (path.display(), kept.display());
                let text = "had the name of a socket of the plugin and is no socket";
                self.run_dir.problems.begin(ProblemCode::StateFileKeptAside, &kept, text);
                tracing::warn!(%file, %kept, "kept aside what has the name of a socket of the plugin and is no socket");
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Removes a socket on which no process listens.
async fn remove_deserted(path: &Path) -> std::io::Result<()> {
    match timeout(CONNECT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        // `unix_stream_connect`: a socket without a listener.
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        // Also one whose listener does not accept (EAGAIN), such as a process that is stopped.
        _ => {
            Err(Error::new(ErrorKind::AddrInUse, "another process listens on it; stop it, or give --run-dir"))
        }
    }
}

/// Watches the socket's file. Its removal changes the number of its links.
fn watch(path: &Path) -> std::io::Result<EventStream<[u8; 1024]>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::ATTRIB | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF;
    inotify.watches().add(path, mask | WatchMask::DONT_FOLLOW)?;
    inotify.into_event_stream([0; 1024])
}

/// Waits for an event of the socket's file.
async fn changed(events: &mut Option<EventStream<[u8; 1024]>>) {
    match events {
        Some(stream) => {
            if !matches!(stream.next().await, Some(Ok(_))) {
                *events = None;
            }
        }
        None => std::future::pending().await,
    }
}

/// Whether the file is the one that was made: one system call.
fn is_there(path: &Path, made: Option<FileId>) -> bool {
    made.is_some() && FileId::of(path).ok() == made
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn new_socket(run_dir: &Path) -> (SocketFile, RunDirSocket) {
        new(&RunDir::of_serve(run_dir, &crate::problems::Problems::default()), "status.sock", None)
    }

    /// Connects within ten seconds.
    async fn connects(path: &Path) {
        let connect = async {
            while UnixStream::connect(path).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), connect).await.expect("no status socket");
    }

    fn serve(mut socket: RunDirSocket) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                drop(socket.accept().await);
            }
        })
    }

    #[tokio::test]
    async fn socket_appears_once_the_directory_can_be_used() {
        let directory = tempfile::tempdir().unwrap();
        // A directory cannot be created in the place of a dangling link, not even by root.
        let run_dir = directory.path().join("run");
        symlink("/nonexistent/run", &run_dir).unwrap();
        let (file, socket) = new_socket(&run_dir);
        let serving = serve(socket);
        sleep(Duration::from_millis(300)).await;
        std::fs::remove_file(&run_dir).unwrap();
        connects(&run_dir.join("status.sock")).await;
        drop(file);
        assert!(!run_dir.join("status.sock").exists());
        serving.abort();
    }

    #[tokio::test]
    async fn removed_socket_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.sock");
        let (_file, socket) = new_socket(directory.path());
        let serving = serve(socket);
        connects(&path).await;
        std::fs::remove_file(&path).unwrap();
        connects(&path).await;
        serving.abort();
    }

    #[tokio::test]
    async fn socket_of_another_process_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.sock");
        let other = UnixListener::bind(&path).unwrap();
        let before = FileId::of(&path).unwrap();
        let (file, socket) = new_socket(directory.path());
        let serving = serve(socket);
        sleep(Duration::from_millis(500)).await;
        drop(file);
        assert_eq!(FileId::of(&path).unwrap(), before);
        serving.abort();
        drop(other);
    }

    #[tokio::test]
    async fn socket_of_a_killed_process_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (_file, socket) = new_socket(directory.path());
        let serving = serve(socket);
        connects(&path).await;
        serving.abort();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_kept_aside_untouched() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.sock");
        let theirs = UnixListener::bind(directory.path().join("theirs")).unwrap();
        let plant: [&dyn Fn(); 4] = [
            &|| symlink("theirs", &path).unwrap(),
            &|| std::fs::create_dir(&path).unwrap(),
            &|| mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
            &|| std::fs::write(&path, "precious").unwrap(),
        ];
        for plant in plant {
            plant();
            let (file, socket) = new_socket(directory.path());
            let serving = serve(socket);
            connects_to_socket(&path).await;
            serving.abort();
            drop(file);
            assert!(path.symlink_metadata().is_err());
        }
        let kept = directory.path().join("status.sock.unreadable.3");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "precious");
        let accepted = timeout(Duration::from_millis(50), theirs.accept()).await;
        assert!(accepted.is_err(), "the other program saw no connection");
    }

    /// Connects once the path is a socket.
    async fn connects_to_socket(path: &Path) {
        while !path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket()) {
            sleep(Duration::from_millis(10)).await;
        }
        connects(path).await;
    }
}
