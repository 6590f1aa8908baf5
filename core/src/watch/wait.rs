//! Waits on a watch until something is true, or until the time is up.

use super::{Event, Watch};
use crate::error::{Error, Result};
use crate::id::GroupId;
use crate::occupancy::Occupancy;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Largest number of events that stay queued from one step of a wait to the next. If there are more,
/// one [`Event::Rescan`] takes their place.
pub const MAX_QUEUED: usize = 1024;

/// A wait whose steps the caller makes, because it waits for other things too. For one that blocks,
/// see [`Watch::wait_for`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait {
    /// [`Watch::news`] at the latest evaluation. None before the first.
    evaluated: Option<u64>,
}

impl Wait {
    /// Returns a wait that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what has changed, and evaluates the predicate if anything has. Returns its result.
    ///
    /// The predicate is evaluated for the first time when the watch is ready. After false, poll
    /// [`Watch::fd`] and make another step. Never blocks. The events stay queued for
    /// [`Watch::next`], at most [`MAX_QUEUED`].
    ///
    /// Threads that share a watch behind a lock release it while they poll. Each event then wakes all
    /// of them. One that was about to poll in that moment wakes at the next interval.
    ///
    /// # Errors
    /// A pass could not list the bound devices. The wait can go on.
    pub fn step(&mut self, watch: &mut Watch, predicate: impl FnOnce(&Watch) -> bool) -> Result<bool> {
        watch.events.bound(MAX_QUEUED);
        watch.waited_for = true;
        watch.advance();
        if let Some(error) = watch.unreported_failure.take() {
            return Err(error);
        }
        let news = watch.news();
        if !watch.is_ready() || self.evaluated.replace(news) == Some(news) {
            return Ok(false);
        }
        Ok(predicate(watch))
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
        let (mut wait, deadline) = (Wait::new(), Deadline::after(timeout));
        loop {
            if wait.step(self, &mut predicate)? {
                return Ok(true);
            }
            if !deadline.poll(self.fd())? {
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
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(event) = self.next() {
                return event.map(Some);
            }
            if !deadline.poll(self.fd())? {
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

    /// Polls until the descriptor is readable, a signal handler has run, or the time is up. Returns
    /// false if the time was up before.
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
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], left.as_ref())
            .map_err(|errno| Error::system(errno, "poll"))?;
        Ok(true)
    }
}
