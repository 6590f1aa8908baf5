//! Searches for holders on a thread of its own, so that no pass waits for /proc.
//!
//! The watch sets its interests ([`Wanted`]) and takes the [`News`] when the thread has
//! some. A thread that hangs in the kernel is left behind, and the next one skips the process that
//! it was inspecting.

mod candidates;
mod worker;

use crate::error::{Error, Result};
use crate::holder_search::Sighting;
use crate::holders::ScanCoverage;
use crate::id::{DeviceId, GroupId};
use crate::root::Root;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use worker::Worker;

/// A thread that inspects one process for this long hangs in the kernel.
const HANG: Duration = Duration::from_secs(2);
/// Largest number of threads that may hang. With that many, nothing is searched until one returns.
const MAX_HANGING: usize = 4;
/// Pause before another thread, after the list of processes could not be read.
const AFTER_HANG: Duration = Duration::from_secs(30);

/// A holder that the watch knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub(super) group: GroupId,
    pub(super) pid: u32,
    pub(super) start_time: u64,
    /// Nothing else shows when this process closes the group, so it is inspected regularly.
    pub(super) confirm: bool,
}

/// The interests of the watch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Wanted {
    /// All groups.
    pub(super) groups: Vec<GroupId>,
    /// Their members, each with N of its `vfioN` entry.
    pub(super) members: Vec<(GroupId, DeviceId, Option<u32>)>,
    /// Number of changes after which device numbers must be read again.
    pub(super) epoch: u64,
    /// Number of the latest search that must begin at once, because a group is held by a process
    /// that is not known.
    pub(super) search: u64,
    /// Groups that are held. The others are checked from time to time, unless there are none.
    pub(super) held: Vec<GroupId>,
    pub(super) known: Vec<Known>,
}

/// A holder that was found, and a pidfd if its exit can be followed.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) sighting: Sighting,
    pub(super) exit: Option<OwnedFd>,
}

/// What the thread has found out.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) found: Vec<Found>,
    /// Known holders that have closed their group, or have ended.
    pub(super) lost: Vec<Known>,
    /// Number of the latest search that has made a step, its coverage, and whether it is over.
    pub(super) step: Option<(u64, ScanCoverage, bool)>,
}

/// What the watch and one thread share.
struct Shared {
    inbox: Mutex<Inbox>,
    wake: Condvar,
    outbox: Mutex<News>,
    signal: Arc<OwnedFd>,
    /// The process that is inspected. 0 for the list of processes.
    pid: AtomicU32,
    /// Since when, in milliseconds after `epoch`. 0 while the thread is idle.
    since: AtomicU64,
    epoch: Instant,
}

#[derive(Default)]
struct Inbox {
    wanted: Arc<Wanted>,
    is_new: bool,
    closed: bool,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, News> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the process that is inspected now.
    fn note(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
        let since = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(since.max(1), Ordering::Relaxed);
    }

    /// Waits for other interests, or until `until`. None means that the thread shall
    /// end.
    fn wait(&self, until: Option<Instant>) -> Option<Arc<Wanted>> {
        self.since.store(0, Ordering::Relaxed);
        let mut inbox = self.inbox();
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if inbox.closed {
                return None;
            }
            if std::mem::take(&mut inbox.is_new) || left.is_some_and(|left| left.is_zero()) {
                return Some(Arc::clone(&inbox.wanted));
            }
            inbox = match left {
                Some(left) => self.wake.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Hands news to the watch and makes its descriptor readable.
    fn report(&self, add: impl FnOnce(&mut News)) {
        add(&mut self.outbox());
        // This fails only after 2^64 - 2 signals that were not read.
        let _ = rustix::io::write(&*self.signal, &1_u64.to_ne_bytes());
    }

    fn close(&self) {
        self.inbox().closed = true;
        self.wake.notify_all();
    }
}

/// Returns the time between two checks of the processes that may have opened a free group.
fn check_interval(interval: Duration) -> Duration {
    (interval * 5).clamp(Duration::from_secs(1), Duration::from_secs(30))
}

/// The search for holders, as the watch sees it.
pub(super) struct Searcher {
    root: Root,
    interval: Duration,
    signal: Arc<OwnedFd>,
    wanted: Arc<Wanted>,
    current: Option<Arc<Shared>>,
    /// The threads that hang, and the process that each inspects.
    hanging: Vec<(Arc<Shared>, u32)>,
    /// When to start a thread again.
    retry_at: Option<Instant>,
    epoch: Instant,
}

impl Searcher {
    /// Starts no thread yet.
    ///
    /// # Errors
    /// The kernel creates no eventfd.
    pub(super) fn new(root: &Root, interval: Duration) -> Result<Self> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::system(errno, "eventfd"))?;
        Ok(Self {
            root: root.clone(),
            interval,
            signal: Arc::new(signal),
            wanted: Arc::default(),
            current: None,
            hanging: Vec::new(),
            retry_at: None,
            epoch: Instant::now(),
        })
    }

    /// Returns a descriptor that is readable when there is news.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    /// Passes on what the watch wants to know. Starts the thread if there is a holder to search for.
    /// Otherwise [`supervise`](Self::supervise) starts it at the time of the first check of the
    /// processes: the groups were just probed or peeked at, so nothing waits for that.
    pub(super) fn send(&mut self, wanted: Wanted, now: Instant) {
        self.wanted = Arc::new(wanted);
        match &self.current {
            Some(shared) => {
                let mut inbox = shared.inbox();
                inbox.wanted = Arc::clone(&self.wanted);
                inbox.is_new = true;
                shared.wake.notify_all();
            }
            None if self.hanging.is_empty() && self.wanted.search > 0 => self.start(now),
            None if self.retry_at.is_none() => self.retry_at = Some(now + check_interval(self.interval)),
            None => {}
        }
    }

    /// Returns when [`supervise`](Self::supervise) starts the thread. None if it runs.
    pub(super) fn starts_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Takes the news.
    pub(super) fn take(&mut self) -> News {
        let _ = rustix::io::read(&*self.signal, &mut [0_u8; 8]);
        self.current.as_ref().map(|shared| std::mem::take(&mut *shared.outbox())).unwrap_or_default()
    }

    /// Replaces a thread that hangs. Returns true if nothing can be searched for now.
    pub(super) fn supervise(&mut self, now: Instant) -> bool {
        if let Some(shared) = &self.current {
            let since = shared.since.load(Ordering::Relaxed);
            if since > 0 && now.saturating_duration_since(self.epoch + Duration::from_millis(since)) >= HANG {
                let pid = shared.pid.load(Ordering::Relaxed);
                shared.close();
                self.hanging.push((Arc::clone(shared), pid));
                self.current = None;
                self.retry_at = Some(if pid == 0 { now + AFTER_HANG } else { now });
            }
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            // A thread that has returned has dropped its share.
            self.hanging.retain(|(shared, _)| Arc::strong_count(shared) > 1);
            if self.hanging.len() < MAX_HANGING {
                self.start(now);
            } else {
                self.retry_at = Some(now + AFTER_HANG);
            }
        }
        self.current.is_none() && self.wanted.search > 0
    }

    fn start(&mut self, now: Instant) {
        self.retry_at = None;
        if self.wanted.groups.is_empty() {
            return;
        }
        let inbox = Inbox { wanted: Arc::clone(&self.wanted), is_new: true, closed: false };
        let shared = Arc::new(Shared {
            inbox: Mutex::new(inbox),
            wake: Condvar::new(),
            outbox: Mutex::default(),
            signal: Arc::clone(&self.signal),
            pid: AtomicU32::new(0),
            since: AtomicU64::new(0),
            epoch: self.epoch,
        });
        let hanging = self.hanging.iter().map(|(thread, pid)| (Arc::downgrade(thread), *pid)).collect();
        let worker = Worker::new(self.root.clone(), Arc::clone(&shared), self.interval, hanging);
        let builder = thread::Builder::new().name("vfio-holders".to_owned()).stack_size(128 * 1024);
        match builder.spawn(move || worker.run()) {
            Ok(_) => self.current = Some(shared),
            Err(_) => self.retry_at = Some(now + AFTER_HANG),
        }
    }
}

impl Drop for Searcher {
    fn drop(&mut self) {
        if let Some(shared) = &self.current {
            // A thread that hangs must not hang an exit, so the drop does not wait for it.
            shared.close();
        }
    }
}
