//! The kubelet's folder: when kubelet.sock is there, and when it has become another one.

use rustix::fs::inotify;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;

/// How often the folder is looked at where inotify cannot be had.
const LOOK: Duration = Duration::from_secs(1);
/// And where it can: the file system may be one that raises no events.
const SELDOM: Duration = Duration::from_secs(10);
/// How often a missing folder is spoken of.
const REMIND: Duration = Duration::from_secs(60);

/// The folder as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PluginDirState {
    /// The kubelet's socket, if there is one.
    pub(crate) kubelet: Option<KubeletSocket>,
    /// Grows with everything that comes and goes in it, our own sockets among it.
    pub(crate) changes: u64,
}

/// The kubelet's socket, if there is one.
pub(crate) fn kubelet_socket(folder: &Path) -> Option<KubeletSocket> {
    let metadata = std::fs::metadata(folder.join(kubelet_api::KUBELET_SOCKET)).ok()?;
    metadata.file_type().is_socket().then(|| {
        KubeletSocket::new(metadata.dev(), metadata.ino(), (metadata.mtime(), metadata.mtime_nsec()))
    })
}

/// How long the socket has been there, by the wall clock.
pub(crate) fn age(socket: &KubeletSocket) -> Duration {
    UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(socket.created())
}

/// Publishes changes of the folder for ever.
pub(crate) async fn follow(folder: PathBuf, sender: watch::Sender<PluginDirState>) {
    let mut events: Option<AsyncFd<OwnedFd>> = None;
    let mut reminded: Option<Instant> = None;
    loop {
        let kubelet = kubelet_socket(&folder);
        if kubelet.is_none() && !folder.is_dir() {
            events = None;
            if reminded.is_none_or(|when| when.elapsed() >= REMIND) {
                reminded = Some(Instant::now());
                tracing::warn!(folder = %folder.display(), "the kubelet's folder is not there; waiting for it");
            }
        } else if events.is_none() {
            reminded = None;
            events = watch_folder(&folder).ok();
            if events.is_some() {
                continue; // What came before the watch is looked for once more.
            }
        }
        sender.send_modify(|known| *known = PluginDirState { kubelet, changes: known.changes + 1 });
        match &events {
            Some(inotify) => {
                tokio::select! {
                    ready = inotify.readable() => {
                        if let Ok(mut ready) = ready {
                            ready.clear_ready();
                            if !drain(inotify.get_ref()) {
                                events = None;
                            }
                        }
                    }
                    () = sleep(SELDOM) => {}
                }
            }
            None => sleep(LOOK).await,
        }
    }
}

fn watch_folder(folder: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let notify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&notify, folder, flags | inotify::WatchFlags::DELETE_SELF)?;
    // Its successor is unsafe for types that may change their descriptor; an OwnedFd keeps its one until dropped.
    #[expect(deprecated, reason = "unsafe code is for ffi alone")]
    AsyncFd::new(notify)
}

/// Takes the events that wait; false if the folder itself is gone, and with it the watch.
fn drain(fd: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(fd, &mut buffer);
    while let Ok(event) = events.next() {
        if event.events().contains(inotify::ReadFlags::IGNORED) {
            return false;
        }
        // What did not fit makes the descriptor readable again.
        if events.is_buffer_empty() {
            break;
        }
    }
    true
}
