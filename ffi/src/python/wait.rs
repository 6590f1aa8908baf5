//! Waits for a watch, whose descriptors report its close too.

use pyo3::Python;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vfio_probe::watch::{Deadline, Descriptor, Wait};
use vfio_probe::{Error, Result, Watch};

/// A watch that several threads may wait for while another thread closes it.
pub(crate) struct Live {
    watch: Mutex<Watch>,
    /// Readable when the watch may have an event, and permanently after the close. So are those of its waits.
    descriptor: Descriptor,
    end: OwnedFd,
    closed: AtomicBool,
    /// Process id of the creator. A forked child has a copy of the watch and shares the descriptors.
    process: u32,
}

impl Live {
    pub(crate) fn new(watch: Watch) -> Result<Self> {
        let system = |errno: Errno| Error::os(errno.raw_os_error(), "watch");
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system)?;
        watch.poll_end(end.as_fd())?;
        let (descriptor, process) = (watch.descriptor(), std::process::id());
        Ok(Self { watch: Mutex::new(watch), descriptor, end, closed: AtomicBool::new(false), process })
    }

    /// Locks the watch. Call it detached from the interpreter: the thread that holds the lock may be in a system call.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the descriptor for a program that polls the watch itself.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Closes the watch and ends all waits.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if std::process::id() != self.process {
            // The descriptor is shared: a write would end the waits of the parent, where the watch is still open.
            return;
        }
        // Cannot fail: the counter of the eventfd is far below its maximum.
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until there may be an event, the watch is closed, or a signal arrives. Returns false if the time was up
    /// before. Call it detached from the interpreter.
    pub(crate) fn wait(&self, wait: &Wait, deadline: Deadline) -> Result<bool> {
        deadline.poll(wait.fd().unwrap_or(self.fd()))
    }
}

/// Drops the state of a Python object, which closes descriptors, detached from the interpreter.
pub(crate) fn release<T: Send>(handle: T) {
    let mut handle = Some(handle);
    // try_attach returns None while the interpreter shuts down; the state is then dropped here.
    let _ = Python::try_attach(|py| py.detach(|| drop(handle.take())));
}
