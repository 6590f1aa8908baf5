//! Waits on a watch until something is true, or until the time is up.

use super::bells::Bell;
use super::{Event, Watch};
use crate::error::{Error, Result};
use crate::id::GroupId;
use crate::occupancy::Occupancy;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest number of events that stay queued from one step of a wait to the next. If there are more,
/// one [`Event::Rescan`] takes their place.
pub const MAX_QUEUED: usize = 1024;

/// A wait whose steps the caller makes, because it waits for other things too, or because threads
/// share the watch. For one that blocks, see [`Watch::wait_for`].
///
/// Threads that share a watch behind a lock have one `Wait` each. They release the lock while they
/// poll [`Wait::fd`]. Whichever thread reads a change first, each other one wakes at once, and so does
/// the one that polls [`Watch::fd`]. A wait belongs to the watch of its first step.
///
/// ```
/// use std::sync::Mutex;
/// use vfio_probe::watch::{self, Wait};
/// use vfio_probe::{Root, Watch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tree = tempfile::tempdir()?;
/// # std::fs::create_dir_all(tree.path().join("sys/class/vfio-dev"))?;
/// let shared = Mutex::new(Watch::open(&Root::open(&tree)?, watch::Options::default())?);
/// let mut wait = Wait::new();
/// while !wait.step(&mut shared.lock().unwrap(), |watch| watch.devices().count() == 0)? {
///     let descriptor = wait.fd();
///     // Poll it for input, without a limit: a step also follows from the timer of the watch.
///     # let _ = descriptor;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Wait {
    /// [`Watch::news`] at the latest evaluation. None before the first.
    evaluated: Option<u64>,
    /// None before the first step, and for a wait that uses the descriptor of the watch.
    bell: Option<Arc<Bell>>,
    /// The wait never polls, so it needs no descriptor of its own.
    is_immediate: bool,
}

impl Wait {
    /// Returns a wait that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a wait that has not begun, for a caller that waits for at most `timeout`.
    ///
    /// With a timeout of 0 it is no wait: its steps take the news of [`Watch::fd`], as [`Watch::next`]
    /// does, because the caller polls that descriptor.
    #[doc(hidden)]
    #[must_use]
    pub fn within(timeout: Option<Duration>) -> Self {
        Self { is_immediate: timeout.is_some_and(|timeout| timeout.is_zero()), ..Self::default() }
    }

    /// Returns the descriptor that is readable when a step may find news: a source of the watch is
    /// readable, or another thread has taken in a change. The next step takes the news; do not read it.
    ///
    /// None before the first step, and if this process has no descriptor left. In the latter case poll
    /// [`Watch::fd`], as only one thread can.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(|bell| bell.as_fd())
    }

    /// Returns the bell for a step. Creates one for a wait that has none. If this process has no
    /// descriptor left, the wait uses that of the watch.
    fn bell(&mut self, watch: &mut Watch) -> Arc<Bell> {
        if self.bell.is_none() && !self.is_immediate {
            self.bell = watch.bells.take(watch.sources.fd()).ok();
        }
        Arc::clone(self.bell.as_ref().unwrap_or(&watch.bell))
    }

    /// Takes in what has changed, and evaluates the predicate if anything has. Returns its result.
    ///
    /// The predicate is evaluated for the first time when the watch is ready. After false, poll
    /// [`Wait::fd`], and make another step. Never blocks. The events stay queued for [`Watch::next`],
    /// at most [`MAX_QUEUED`].
    ///
    /// # Errors
    /// A pass could not list the bound devices. The wait can go on.
    pub fn step(&mut self, watch: &mut Watch, predicate: impl FnOnce(&Watch) -> bool) -> Result<bool> {
        let own = self.bell(watch);
        watch.update_for(&own)?;
        let news = watch.news();
        if !watch.is_ready() || self.evaluated.replace(news) == Some(news) {
            return Ok(false);
        }
        Ok(predicate(watch))
    }

    /// Returns the next event as [`Watch::next`] does. After none, poll as after [`Wait::step`]: a
    /// thread that waits for events learns of those that another thread's wait has queued.
    pub fn next(&mut self, watch: &mut Watch) -> Option<Result<Event>> {
        let own = self.bell(watch);
        watch.next_for(&own)
    }

    /// Returns whether an event is queued, and takes in what has changed if none is. After false,
    /// poll as after [`Wait::step`].
    ///
    /// # Errors
    /// As [`Wait::step`].
    #[doc(hidden)]
    pub fn has_event(&mut self, watch: &mut Watch) -> Result<bool> {
        let own = self.bell(watch);
        if watch.events.is_empty() {
            watch.update_for(&own)?;
        }
        Ok(!watch.events.is_empty())
    }
}

impl Watch {
    /// Takes in what has changed, as [`Watch::next`] does. The events stay queued, at most
    /// [`MAX_QUEUED`].
    ///
    /// # Errors
    /// A pass could not list the bound devices, once for each failed pass. The watch goes on.
    #[doc(hidden)]
    pub fn update(&mut self) -> Result<()> {
        let own = Arc::clone(&self.bell);
        self.update_for(&own)
    }

    fn update_for(&mut self, own: &Arc<Bell>) -> Result<()> {
        self.events.bound(MAX_QUEUED);
        self.advance(own);
        self.unreported_failure.take().map_or(Ok(()), Err)
    }

    /// Returns the next event that is queued. Reads nothing of the host.
    #[doc(hidden)]
    pub fn next_queued(&mut self) -> Option<Event> {
        self.events.pop()
    }
}

impl Watch {
    /// Waits until the predicate is true. Returns false if the time is up first. None as `timeout`
    /// waits without a limit.
    ///
    /// The predicate is evaluated when the watch is ready, and then after each news. The events of
    /// that time stay queued for [`Watch::next`], at most [`MAX_QUEUED`].
    ///
    /// # Errors
    /// A pass could not list the bound devices, or this process cannot poll. The watch goes on, so
    /// the caller can wait again.
    pub fn wait_for(
        &mut self,
        timeout: Option<Duration>,
        mut predicate: impl FnMut(&Self) -> bool,
    ) -> Result<bool> {
        let (mut wait, deadline) = (Wait::within(timeout), Deadline::after(timeout));
        loop {
            if wait.step(self, &mut predicate)? {
                return Ok(true);
            }
            if !deadline.poll(wait.fd().unwrap_or(self.fd()))? {
                return Ok(false);
            }
        }
    }

    /// Waits until a group is known to be free, as [`Watch::wait_for`] does. A group without a bound
    /// device is not free, and one whose occupancy is unknown is not either.
    ///
    /// # Errors
    /// As [`Watch::wait_for`].
    pub fn wait_until_free(&mut self, group: GroupId, timeout: Option<Duration>) -> Result<bool> {
        self.wait_for(timeout, |watch| watch.occupancy(group) == Some(Occupancy::Free))
    }

    /// Waits until a group is known to be held, as [`Watch::wait_for`] does.
    ///
    /// # Errors
    /// As [`Watch::wait_for`].
    pub fn wait_until_held(&mut self, group: GroupId, timeout: Option<Duration>) -> Result<bool> {
        self.wait_for(timeout, |watch| watch.occupancy(group) == Some(Occupancy::Held))
    }

    /// Waits for the next event. Returns none if the time is up first. None as `timeout` waits
    /// without a limit.
    ///
    /// # Errors
    /// As [`Watch::wait_for`].
    pub fn wait_for_event(&mut self, timeout: Option<Duration>) -> Result<Option<Event>> {
        let (mut wait, deadline) = (Wait::within(timeout), Deadline::after(timeout));
        loop {
            if let Some(event) = wait.next(self) {
                return event.map(Some);
            }
            if !deadline.poll(wait.fd().unwrap_or(self.fd()))? {
                return Ok(None);
            }
        }
    }

    /// Returns the number of events that the watch has queued so far. If it has not changed, neither
    /// has anything that an event reports.
    #[must_use]
    pub fn news(&self) -> u64 {
        self.events.total()
    }
}

/// The end of a wait, for callers that poll by themselves.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Returns the end of a wait that begins now. It has none without a timeout, and with one that is
    /// too long for the clock.
    #[must_use]
    pub fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// Polls until the descriptor of a wait is readable, a signal handler has run, or the time is up.
    /// Returns false if the time was up before.
    ///
    /// # Errors
    /// This process cannot poll.
    pub fn poll(self, fd: BorrowedFd<'_>) -> Result<bool> {
        match self.poll_or_signal(fd) {
            Err(error) if error.errno == Errno::INTR.raw_os_error() => Ok(true),
            polled => polled,
        }
    }

    /// Polls as [`Deadline::poll`] does, but a signal handler that has run is an error.
    ///
    /// # Errors
    /// A signal handler has run (EINTR), or this process cannot poll.
    pub fn poll_or_signal(self, fd: BorrowedFd<'_>) -> Result<bool> {
        let left = self.0.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        // What does not fit is longer than the time until the next tick of any timer.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let result = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], left.as_ref());
        result.map(|_| true).map_err(|errno| Error::system(errno, "poll"))
    }
}
