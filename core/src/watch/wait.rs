//! Waits on a watch until something is true, or until the time is up.

use super::{Event, Watch};
use crate::error::{Error, Result};
use crate::id::GroupId;
use crate::occupancy::Occupancy;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
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
        let (mut wait, end) = (Wait::new(), end_of(timeout));
        loop {
            if wait.step(self, &mut predicate)? {
                return Ok(true);
            }
            if !self.wait_for_news(end)? {
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
        let end = end_of(timeout);
        loop {
            if let Some(event) = self.next() {
                return event.map(Some);
            }
            if !self.wait_for_news(end)? {
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

    /// Polls until there may be an event. Returns false if the time was up before.
    fn wait_for_news(&self, end: Option<Instant>) -> Result<bool> {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        // What does not fit is longer than the time until the next tick of any timer.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)], left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(Error::system(errno, "poll")),
        }
    }
}

/// Returns the end of a wait. None if it has none, also if it is too far away for the clock.
fn end_of(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}
