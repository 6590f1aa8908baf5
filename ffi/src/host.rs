//! A root with all that calls on it need, usable from any number of threads at once.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_probe::{Buffer, Prober, Result, Root};

/// More buffers than this are not kept: that many threads seldom call at once.
const MOST_KEPT: usize = 8;

/// What stands behind a handle.
pub(crate) struct Host {
    pub(crate) root: Arc<Root>,
    /// Starts its helper threads when first asked.
    pub(crate) prober: Arc<Prober>,
    /// Those in use by nobody, so that a repeated call allocates none.
    buffers: Mutex<Vec<Buffer>>,
}

impl Host {
    /// Opens the directory that stands for `/`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let root = Arc::new(Root::open(path)?);
        let prober = Arc::new(Prober::new(Arc::clone(&root)));
        Ok(Self { root, prober, buffers: Mutex::default() })
    }

    /// Lends a buffer to a call.
    pub(crate) fn with_buffer<T>(&self, call: impl FnOnce(&Root, &mut Buffer) -> T) -> T {
        let kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = kept.unwrap_or_default();
        let result = call(&self.root, &mut buffer);
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < MOST_KEPT {
            buffers.push(buffer);
        }
        result
    }
}
