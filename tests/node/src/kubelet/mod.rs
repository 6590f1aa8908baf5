//! A stand-in for the kubelet on real sockets: registration, device books, pods, pod resources.
//!
//! It does what `pkg/kubelet/cm/devicemanager` does as far as a plugin can tell: dials back inside Register, takes every
//! list as the whole, calls all devices unhealthy when a stream ends, and removes every socket when it starts.

mod admission;
mod books;
mod checkpoint;
mod pod_resources;
mod process;
mod registration;

pub use admission::{Admission, AdmitError};
pub use books::{Books, Capacity, Pod, Registration, Resource};
pub use pod_resources::Answer;

use process::Process;
use std::fmt;
use std::io::Result;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A running (or stopped) kubelet.
pub struct Kubelet {
    inner: Arc<Inner>,
    server: Mutex<Option<Process>>,
}

/// What its servers share.
pub(crate) struct Inner {
    pub(crate) folder: PathBuf,
    pub(crate) pod_resources: PathBuf,
    pub(crate) books: watch::Sender<Books>,
    pub(crate) answer: Mutex<Answer>,
    pub(crate) pod_lists: AtomicU64,
}

impl Inner {
    /// Changes the books and then, as `writeCheckpoint` after every list and every allocation, the checkpoint.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Books)) {
        self.books.send_modify(|books| {
            change(books);
            // A full disk in a test is seen by whoever reads the checkpoint.
            let _ = checkpoint::write(&self.folder, books);
        });
    }
}

impl Kubelet {
    /// Starts: removes every socket of the folder (`CleanupPluginDirectory`), then serves. Needs a tokio runtime.
    ///
    /// # Errors
    /// The folder or a socket in it cannot be made.
    pub async fn start(folder: &Path, pod_resources: &Path) -> Result<Self> {
        let kubelet = Self::stopped(folder, pod_resources);
        kubelet.run().await?;
        Ok(kubelet)
    }

    /// One that has not started yet.
    #[must_use]
    pub fn stopped(folder: &Path, pod_resources: &Path) -> Self {
        let inner = Inner {
            folder: folder.to_owned(),
            pod_resources: pod_resources.to_owned(),
            books: watch::Sender::new(Books::default()),
            answer: Mutex::default(),
            pod_lists: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner), server: Mutex::new(None) }
    }

    /// Starts, if it is not running.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    #[expect(clippy::unused_async, reason = "callers await whatever starting takes")]
    pub async fn run(&self) -> Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_some() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.inner.folder)?;
        for entry in std::fs::read_dir(&self.inner.folder)? {
            let entry = entry?;
            // A plugin that saw the old kubelet die may be removing its socket at this very moment.
            if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                std::fs::remove_file(entry.path()).or_else(unless_gone)?;
            }
        }
        if let Some(folder) = self.inner.pod_resources.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let _ = std::fs::remove_file(&self.inner.pod_resources);
        *server = Some(Process::start(&self.inner)?);
        Ok(())
    }

    /// Stops as a process that ends: connections break, its sockets stay behind as files that nobody answers.
    pub fn stop(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            server.end();
            self.inner.books.send_modify(Books::stopped);
        }
    }

    /// Stops and starts. Every resource has no device until its plugin registers again. With `keep_checkpoint` pods keep
    /// their devices (`readCheckpoint`), without it they are there still, but the kubelet knows of no device of theirs.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub async fn restart(&self, keep_checkpoint: bool) -> Result<()> {
        self.stop();
        if !keep_checkpoint {
            let _ = std::fs::remove_file(self.inner.folder.join(kubelet_api::CHECKPOINT));
        }
        self.inner.books.send_modify(|books| books.restart(keep_checkpoint));
        self.run().await
    }

    /// How the pod resources service answers from now on.
    pub fn answer_pod_resources(&self, answer: Answer) {
        *self.inner.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// How often pods were listed so far.
    #[must_use]
    pub fn pod_lists(&self) -> u64 {
        self.inner.pod_lists.load(Ordering::Relaxed)
    }

    /// The books as they are.
    #[must_use]
    pub fn books(&self) -> Books {
        self.inner.books.borrow().clone()
    }

    /// What the node object would say of a resource.
    #[must_use]
    pub fn capacity(&self, resource: &str) -> Capacity {
        self.inner.books.borrow().capacity(resource)
    }

    /// Waits until the books are as wanted; the books as they were last, on timeout as the error.
    ///
    /// # Errors
    /// They were not, within `deadline`.
    pub async fn wait_for(
        &self,
        deadline: Duration,
        mut wanted: impl FnMut(&Books) -> bool,
    ) -> std::result::Result<Books, Books> {
        let mut books = self.inner.books.subscribe();
        let seen = tokio::time::timeout(deadline, books.wait_for(|books| wanted(books))).await;
        match seen {
            Ok(Ok(books)) => Ok(books.clone()),
            _ => Err(self.books()),
        }
    }

    /// Ends the kubelet's stream to a plugin, and nothing else: the kubelet never dials again by itself.
    pub fn drop_stream(&self, resource: &str) {
        let token = self.inner.books.borrow().resources.get(resource).map(|resource| resource.stream.clone());
        if let Some(token) = token {
            token.cancel();
        }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubelet").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

fn unless_gone(error: std::io::Error) -> Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
