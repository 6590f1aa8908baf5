//! Watches the kubelet's directory of device plugins: when kubelet.sock appears, and when it is replaced.

use crate::problems::{ProblemCode, Problems};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchMask};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_stream::{Stream, StreamExt};
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;

/// How often the directory is checked without inotify.
const CHECK_UNWATCHED: Duration = Duration::from_secs(1);
/// How often it is checked beside inotify: some file systems raise no events. Each check wakes the process.
const CHECK_WATCHED: Duration = Duration::from_secs(60);
/// How often a missing directory is logged.
const REMIND: Duration = Duration::from_secs(60);
/// Bytes for inotify events: some dozens of them.
const BUFFER: usize = 4096;

/// The state of the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PluginDirState {
    /// The kubelet's socket, if there is one.
    pub(crate) kubelet: Option<KubeletSocket>,
    /// Grows with every file that appears or disappears, the plugin's own sockets included.
    pub(crate) changes: u64,
}

/// Returns the kubelet's socket in its directory, if there is one.
pub(crate) fn kubelet_socket(directory: &Path) -> Option<KubeletSocket> {
    let metadata = std::fs::metadata(directory.join(kubelet_api::KUBELET_SOCKET)).ok()?;
    metadata.file_type().is_socket().then(|| {
        KubeletSocket::new(metadata.dev(), metadata.ino(), (metadata.mtime(), metadata.mtime_nsec()))
    })
}

/// Publishes the directory's changes. Never ends. `sender` has the state of just now.
pub(crate) async fn follow(directory: PathBuf, problems: Problems, sender: watch::Sender<PluginDirState>) {
    let mut events = DirectoryEvents::new(directory, problems);
    let mut kubelet = sender.borrow().kubelet;
    loop {
        if events.begin(kubelet.is_some()) {
            // A change before the watch began raised no event.
            kubelet = kubelet_socket(&events.directory);
            continue;
        }
        sender.send_modify(|state| *state = PluginDirState { kubelet, changes: state.changes + 1 });
        events.changed().await;
        kubelet = kubelet_socket(&events.directory);
    }
}

/// The events of a directory that may be missing, and may be removed.
struct DirectoryEvents {
    directory: PathBuf,
    /// None while inotify does not watch the directory.
    stream: Option<EventStream<Vec<u8>>>,
    /// When the directory's absence was logged.
    reminded: Option<Instant>,
    problems: Problems,
}

impl DirectoryEvents {
    fn new(directory: PathBuf, problems: Problems) -> Self {
        Self { directory, stream: None, reminded: None, problems }
    }

    /// Watches the directory if it exists and is not watched. Returns whether the watch has just begun.
    fn begin(&mut self, kubelet_exists: bool) -> bool {
        if !kubelet_exists && !self.directory.is_dir() {
            self.stream = None;
            self.log_missing();
            return false;
        }
        if self.stream.is_some() {
            return false;
        }
        self.reminded = None;
        self.problems.end(ProblemCode::KubeletDirMissing, self.directory.display());
        match watch(&self.directory) {
            Ok(stream) => {
                self.stream = Some(stream);
                self.problems.end(ProblemCode::KubeletDirUnwatched, self.directory.display());
            }
            Err(error) => self.log_failure(&error),
        }
        self.stream.is_some()
    }

    /// Waits for a change, or until the directory is to be checked without one.
    async fn changed(&mut self) {
        let Some(stream) = &mut self.stream else { return sleep(CHECK_UNWATCHED).await };
        let Ok(mut next) = timeout(CHECK_WATCHED, stream.next()).await else { return };
        loop {
            match next {
                // The directory was removed, and the watch with it. Or it was moved, and another one may have its name.
                Some(Ok(event)) if event.mask.intersects(EventMask::IGNORED | EventMask::MOVE_SELF) => {
                    self.stream = None;
                    return;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.stream = None;
                    self.log_failure(&error);
                    return sleep(CHECK_UNWATCHED).await;
                }
                None => {
                    self.stream = None;
                    return sleep(CHECK_UNWATCHED).await;
                }
            }
            // All events that wait are one change.
            match waiting(stream).await {
                Some(event) => next = event,
                None => return,
            }
        }
    }

    fn log_missing(&mut self) {
        let text = "the kubelet's directory of device plugins is missing";
        self.problems.begin(ProblemCode::KubeletDirMissing, self.directory.display(), text);
        if self.reminded.is_none_or(|when| when.elapsed() >= REMIND) {
            self.reminded = Some(Instant::now());
            let directory = self.directory.display();
            tracing::warn!(%directory, "the kubelet's directory of device plugins is missing; waiting for it");
        }
    }

    fn log_failure(&mut self, error: &io::Error) {
        let directory = self.directory.display();
        let text = format!("inotify does not watch it, and it is checked every second instead: {error}");
        if self.problems.begin(ProblemCode::KubeletDirUnwatched, &directory, text) {
            tracing::warn!(%directory, %error, "inotify failed; checking the kubelet's directory every second instead");
        }
    }
}

/// Watches a directory.
fn watch(directory: &Path) -> io::Result<EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::DELETE_SELF;
    let mask = mask | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
    inotify.watches().add(directory, mask)?;
    inotify.into_event_stream(vec![0; BUFFER])
}

/// Returns the next event if it waits already.
async fn waiting(stream: &mut EventStream<Vec<u8>>) -> Option<Option<io::Result<EventOwned>>> {
    std::future::poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *stream).poll_next(context) {
            Poll::Ready(event) => Some(event),
            Poll::Pending => None,
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Follows a directory until the kubelet's socket is there, or is not, and returns how long that took.
    async fn wait_for(state: &mut watch::Receiver<PluginDirState>, exists: bool) -> Duration {
        let began = Instant::now();
        let state = state.wait_for(|state| state.kubelet.is_some() == exists);
        timeout(Duration::from_secs(9), state).await.unwrap().unwrap();
        began.elapsed()
    }

    #[tokio::test]
    async fn sockets_and_a_new_directory_are_seen_at_once() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("device-plugins");
        let socket = directory.join(kubelet_api::KUBELET_SOCKET);
        let (sender, mut state) = watch::channel(PluginDirState::default());
        let task = tokio::spawn(follow(directory.clone(), Problems::default(), sender));
        for is_moved in [false, true, false] {
            std::fs::create_dir(&directory).unwrap();
            // The watch begins within a second.
            sleep(CHECK_UNWATCHED + Duration::from_millis(200)).await;
            let before = state.borrow_and_update().changes;
            let listener = UnixListener::bind(&socket).unwrap();
            assert!(wait_for(&mut state, true).await < CHECK_UNWATCHED, "inotify reports it");
            assert!(state.borrow_and_update().changes > before);
            drop(listener);
            std::fs::remove_file(&socket).unwrap();
            assert!(wait_for(&mut state, false).await < CHECK_UNWATCHED);
            if is_moved {
                std::fs::rename(&directory, parent.path().join("moved")).unwrap();
            } else {
                std::fs::remove_dir(&directory).unwrap();
            }
        }
        task.abort();
    }

    #[tokio::test]
    async fn events_that_wait_are_one_change() {
        let directory = tempfile::tempdir().unwrap();
        let mut events = DirectoryEvents::new(directory.path().to_owned(), Problems::default());
        assert!(events.begin(false) && !events.begin(false), "it begins once");
        for file in 0..20 {
            std::fs::write(directory.path().join(file.to_string()), "").unwrap();
        }
        events.changed().await;
        let more = timeout(Duration::from_millis(100), events.changed()).await;
        assert!(more.is_err(), "no event is left");
    }
}
