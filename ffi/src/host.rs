//! Holds a root with its probe threads and scratch buffers, for any number of concurrent callers.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_probe::{Buffer, Prober, Result, Root};

/// Maximum number of idle buffers kept for reuse. More concurrent callers are rare.
const MAX_IDLE_BUFFERS: usize = 8;

/// The state behind a root handle.
pub(crate) struct Host {
    pub(crate) root: Root,
    /// Starts its helper threads at the first probe with a deadline.
    pub(crate) prober: Arc<Prober>,
    /// Idle buffers, so that a repeated call does not allocate.
    buffers: Mutex<Vec<Buffer>>,
}

impl Host {
    /// Opens the directory that stands for `/`. Fails as `openat(2)` does.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let root = Root::open(path)?;
        let prober = Arc::new(Prober::new(root.clone()));
        Ok(Self { root, prober, buffers: Mutex::default() })
    }

    /// Runs `call` with the root and an idle buffer. The lock is not held during the call.
    pub(crate) fn with_buffer<T>(&self, call: impl FnOnce(&Root, &mut Buffer) -> T) -> T {
        let kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = kept.unwrap_or_default();
        let result = call(&self.root, &mut buffer);
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < MAX_IDLE_BUFFERS {
            buffers.push(buffer);
        }
        result
    }
}
