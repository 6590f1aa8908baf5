//! A stand-in for the kubelet on real sockets: registration, devices, pods, pod resources.
//!
//! It behaves as `pkg/kubelet/cm/devicemanager` does, as far as a plugin can observe it. It dials back within
//! Register, takes each list as the complete one, marks all devices Unhealthy when a stream ends, and removes every
//! socket when it starts.

mod admission;
mod checkpoint;
mod clients;
mod pod_resources;
mod process;
mod registration;
mod state;

pub use admission::{Admission, AdmitError};
pub use clients::Version;
pub use pod_resources::PodResourcesMode;
pub use state::{Capacity, KubeletState, Pod, Registration, Resource};

use process::Process;
use std::fmt;
use std::io::Result;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A kubelet, running or stopped.
pub struct Kubelet {
    inner: Arc<KubeletInner>,
    server: Mutex<Option<Process>>,
}

/// What the kubelet shares with its servers.
pub(crate) struct KubeletInner {
    pub(crate) dir: PathBuf,
    pub(crate) pod_resources: PathBuf,
    pub(crate) state: watch::Sender<KubeletState>,
    pub(crate) pod_resources_mode: Mutex<PodResourcesMode>,
    pub(crate) pod_lists: AtomicU64,
    pub(crate) version: Mutex<Option<Version>>,
}

impl KubeletInner {
    /// Changes the state and then writes the checkpoint, as `writeCheckpoint` after every list and every allocation.
    pub(crate) fn change(&self, change: impl FnOnce(&mut KubeletState)) {
        self.state.send_modify(|state| {
            change(state);
            // A write error is ignored: the test that reads the checkpoint fails.
            let _ = checkpoint::write(&self.dir, state);
        });
    }
}

impl Kubelet {
    /// Starts a kubelet: removes every socket in `dir` (`CleanupPluginDirectory`), then serves. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// The directory or a socket in it cannot be created.
    pub async fn start(dir: &Path, pod_resources: &Path) -> Result<Self> {
        let kubelet = Self::stopped(dir, pod_resources);
        kubelet.run().await?;
        Ok(kubelet)
    }

    /// Creates a kubelet that is not started.
    #[must_use]
    pub fn stopped(dir: &Path, pod_resources: &Path) -> Self {
        let inner = KubeletInner {
            dir: dir.to_owned(),
            pod_resources: pod_resources.to_owned(),
            state: watch::Sender::new(KubeletState::default()),
            pod_resources_mode: Mutex::default(),
            pod_lists: AtomicU64::new(0),
            version: Mutex::default(),
        };
        Self { inner: Arc::new(inner), server: Mutex::new(None) }
    }

    /// Starts the kubelet unless it is running.
    ///
    /// # Errors
    /// See [`Kubelet::start`].
    #[expect(clippy::unused_async, reason = "callers await the start, however long it takes")]
    pub async fn run(&self) -> Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_some() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.inner.dir)?;
        for entry in std::fs::read_dir(&self.inner.dir)? {
            let entry = entry?;
            // A plugin that saw the old kubelet end may be removing its socket at the same time.
            if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
                std::fs::remove_file(entry.path()).or_else(unless_gone)?;
            }
        }
        if let Some(dir) = self.inner.pod_resources.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let _ = std::fs::remove_file(&self.inner.pod_resources);
        *server = Some(Process::start(&self.inner)?);
        Ok(())
    }

    /// Stops as a process that ends: connections break, and the sockets stay as files on which no process listens.
    pub fn stop(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            server.end();
            self.inner.state.send_modify(KubeletState::disconnect_all);
        }
    }

    /// Stops and starts again. Every resource has no devices until its plugin registers again. With `keep_checkpoint`
    /// the pods keep their devices (`readCheckpoint`). Without it the pods still exist, but the kubelet knows no
    /// device of theirs.
    ///
    /// # Errors
    /// See [`Kubelet::start`].
    pub async fn restart(&self, keep_checkpoint: bool) -> Result<()> {
        self.stop();
        if !keep_checkpoint {
            let _ = std::fs::remove_file(self.inner.dir.join(kubelet_api::CHECKPOINT));
        }
        self.inner.state.send_modify(|state| state.restart(keep_checkpoint));
        self.run().await
    }

    /// Keeps the clients of a resource's name from now on as kubelets of a version do. Without a version, a second plugin replaces the
    /// first one, whose stream ends.
    pub fn set_version(&self, version: Version) {
        *self.inner.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
    }

    /// Sets how the pod resources service answers from now on.
    pub fn set_pod_resources_mode(&self, mode: PodResourcesMode) {
        *self.inner.pod_resources_mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Returns how often List was called so far.
    #[must_use]
    pub fn pod_lists(&self) -> u64 {
        self.inner.pod_lists.load(Ordering::Relaxed)
    }

    /// Returns a copy of the current state.
    #[must_use]
    pub fn state(&self) -> KubeletState {
        self.inner.state.borrow().clone()
    }

    /// Returns the numbers of a resource that the node object would show.
    #[must_use]
    pub fn capacity(&self, resource: &str) -> Capacity {
        self.inner.state.borrow().capacity(resource)
    }

    /// Waits until the state is as `wanted`, and returns it.
    ///
    /// # Errors
    /// The state was not as wanted within `deadline`. The error is the latest state.
    pub async fn wait_for(
        &self,
        deadline: Duration,
        mut wanted: impl FnMut(&KubeletState) -> bool,
    ) -> std::result::Result<KubeletState, KubeletState> {
        let mut state = self.inner.state.subscribe();
        let seen = tokio::time::timeout(deadline, state.wait_for(|state| wanted(state))).await;
        match seen {
            Ok(Ok(state)) => Ok(state.clone()),
            _ => Err(self.state()),
        }
    }

    /// Ends the kubelet's stream to a plugin and nothing else. The kubelet does not dial again by itself.
    pub fn drop_stream(&self, resource: &str) {
        let token = self.inner.state.borrow().resources.get(resource).map(|resource| resource.stream.clone());
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
        f.debug_struct("Kubelet").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

fn unless_gone(error: std::io::Error) -> Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
