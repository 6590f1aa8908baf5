//! What lives while a watch is open or waited for: the core's watch and one descriptor for its news and its end.

use pyo3::Python;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vfio_probe::{Error, Result, Watch};

/// A watch that may be waited for in many threads, and closed in another.
pub(crate) struct Live {
    watch: Mutex<Watch>,
    /// Readable when the watch may have news, and for ever once it was closed.
    descriptor: OwnedFd,
    end: OwnedFd,
    closed: AtomicBool,
    /// Whose it is: a child that was forked has a copy, and shares the descriptors.
    process: u32,
}

impl Live {
    pub(crate) fn new(watch: Watch) -> Result<Self> {
        let system = |errno| Error::system(errno, "watch");
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system)?;
        let descriptor = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?;
        for source in [watch.fd(), end.as_fd()] {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&descriptor, source, data, epoll::EventFlags::IN).map_err(system)?;
        }
        let process = std::process::id();
        Ok(Self { watch: Mutex::new(watch), descriptor, end, closed: AtomicBool::new(false), process })
    }

    /// The watch, for one thread at a time. Call it detached: who has it may be in a system call.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Ends all waits.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if std::process::id() != self.process {
            // The parent's waits would end at once, and for ever, though its watch is open.
            return;
        }
        // Fails only when 2^64 - 2 were written before.
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits until there may be news, the watch is closed, `until` has come, or a signal arrived. Call it detached.
    pub(crate) fn wait(&self, until: Option<Instant>) -> std::result::Result<(), Errno> {
        let left = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// Lets go of what a Python object had, which closes descriptors, detached from the interpreter.
pub(crate) fn release<T: Send>(handle: T) {
    let mut handle = Some(handle);
    // None while the interpreter ends; then it is dropped here.
    let _ = Python::try_attach(|py| py.detach(|| drop(handle.take())));
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
