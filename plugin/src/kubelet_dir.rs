//! The kubelet's folder: when kubelet.sock is there, and when it has become another one.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

/// How often the folder is looked at where inotify cannot be had.
const LOOK: Duration = Duration::from_secs(1);
/// And where it can: the file system may be one that raises no events.
const SELDOM: Duration = Duration::from_secs(10);
/// How often a missing folder is spoken of.
const REMIND: Duration = Duration::from_secs(60);

/// The folder as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Folder {
    /// The kubelet's socket, if there is one.
    pub(crate) kubelet: Option<KubeletSocket>,
    /// Grows with everything that comes and goes in it, our own sockets among it.
    pub(crate) changes: u64,
}

/// Which kubelet.sock: another one means another kubelet process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KubeletSocket {
    inode: u64,
    device: u64,
    changed: (i64, i64),
}

/// The kubelet's socket, if there is one.
pub(crate) fn kubelet_socket(folder: &Path) -> Option<KubeletSocket> {
    let metadata = std::fs::metadata(folder.join(kubelet_api::KUBELET_SOCKET)).ok()?;
    metadata.file_type().is_socket().then(|| KubeletSocket {
        inode: metadata.ino(),
        device: metadata.dev(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// Publishes changes of the folder for ever.
pub(crate) async fn follow(folder: PathBuf, sender: watch::Sender<Folder>) {
    let mut events: Option<AsyncFd<OwnedFd>> = None;
    let mut reminded: Option<Instant> = None;
    loop {
        let there = folder.is_dir();
        if !there {
            events = None;
            if reminded.is_none_or(|when| when.elapsed() >= REMIND) {
                reminded = Some(Instant::now());
                tracing::warn!(folder = %folder.display(), "the kubelet's folder is not there; waiting for it");
            }
        } else if events.is_none() {
            reminded = None;
            events = watch_folder(&folder).ok();
        }
        let kubelet = kubelet_socket(&folder);
        sender.send_modify(|known| *known = Folder { kubelet, changes: known.changes + 1 });
        match &events {
            Some(inotify) => {
                tokio::select! {
                    ready = inotify.readable() => {
                        if let Ok(mut ready) = ready {
                            drain(inotify.get_ref());
                            ready.clear_ready();
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

fn drain(fd: &OwnedFd) {
    let mut buffer = [0_u8; 4096];
    let waiting = |fd: &OwnedFd| {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    };
    while waiting(fd) && rustix::io::read(fd, &mut buffer).is_ok_and(|length| length > 0) {}
}
