//! Gives each poller of a watch a descriptor of its own, so that no other thread can take its news.
//!
//! The sources of the watch cannot do that alone: they are readable only until one thread has read
//! them.

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::{read, write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The descriptor of one poller: the program that polls the watch itself, or one wait. It is readable
/// while a source is, and after news that another poller has taken in.
#[derive(Debug)]
pub(super) struct Bell {
    /// Polls the sources and `news`.
    epoll: OwnedFd,
    /// An eventfd.
    news: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    fn new(sources: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        for fd in [sources, news.as_fd()] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Self { epoll, news, rung: AtomicBool::new(false) })
    }

    fn ring(&self) {
        if !self.rung.swap(true, Ordering::Relaxed) {
            // Cannot fail: the counter of the eventfd is at most 1.
            let _ = write(&self.news, &1_u64.to_ne_bytes());
        }
    }

    /// Ends the ringing, because its poller takes in all news now. A system call only if the bell has
    /// rung.
    pub(super) fn clear(&self) {
        if self.rung.swap(false, Ordering::Relaxed) {
            let _ = read(&self.news, &mut [0_u8; 8]);
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// The bells of all pollers of a watch. It is used under the lock of the watch.
#[derive(Debug, Default)]
pub(super) struct Bells {
    /// A bell that only this list refers to belongs to a wait that has ended. One of them is kept for the next
    /// wait, so that a thread that waits again and again creates no descriptor each time.
    all: Vec<Arc<Bell>>,
}

impl Bells {
    /// Returns a bell for a poller: one that is unused, or a new one.
    ///
    /// # Errors
    /// The kernel creates no epoll descriptor or no eventfd.
    pub(super) fn take(&mut self, sources: BorrowedFd<'_>) -> rustix::io::Result<Arc<Bell>> {
        if let Some(unused) = self.unused() {
            unused.clear();
            return Ok(unused);
        }
        let bell = Arc::new(Bell::new(sources)?);
        self.all.push(Arc::clone(&bell));
        Ok(bell)
    }

    /// Rings all bells except that of the poller that has taken in the news.
    pub(super) fn ring_others(&mut self, own: &Arc<Bell>) {
        drop(self.unused());
        for bell in &self.all {
            if !Arc::ptr_eq(own, bell) && Arc::strong_count(bell) > 1 {
                bell.ring();
            }
        }
    }

    /// Returns an unused bell and closes all other unused ones.
    fn unused(&mut self) -> Option<Arc<Bell>> {
        let mut unused = None;
        self.all.retain(|bell| {
            let is_used = Arc::strong_count(bell) > 1;
            if !is_used && unused.is_none() {
                unused = Some(Arc::clone(bell));
                return true;
            }
            is_used
        });
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(bell: &Arc<Bell>) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    fn source() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    #[test]
    fn news_ring_each_bell_until_its_own_poller_clears_it() {
        let (source, mut bells) = (source(), Bells::default());
        let [first, second, third] = std::array::from_fn(|_| bells.take(source.as_fd()).unwrap());
        bells.ring_others(&first);
        bells.ring_others(&first);
        assert!(!is_readable(&first) && is_readable(&second) && is_readable(&third));
        second.clear();
        assert!(!is_readable(&second) && is_readable(&third), "one clears no other");
        bells.ring_others(&third);
        assert!(is_readable(&first) && is_readable(&second));
    }

    #[test]
    fn readable_source_makes_every_bell_readable() {
        let (source, mut bells) = (source(), Bells::default());
        let [first, second] = std::array::from_fn(|_| bells.take(source.as_fd()).unwrap());
        write(&source, &1_u64.to_ne_bytes()).unwrap();
        first.clear();
        assert!(is_readable(&first) && is_readable(&second), "a bell reads no source");
        read(&source, &mut [0_u8; 8]).unwrap();
        assert!(!is_readable(&first) && !is_readable(&second));
    }

    #[test]
    fn ended_wait_leaves_its_bell_to_the_next_one() {
        let (source, mut bells) = (source(), Bells::default());
        let [first, second, third] = std::array::from_fn(|_| bells.take(source.as_fd()).unwrap());
        bells.ring_others(&first);
        drop((second, third));
        bells.ring_others(&first);
        assert_eq!(bells.all.len(), 2, "at most one is kept");
        let next = bells.take(source.as_fd()).unwrap();
        assert_eq!(bells.all.len(), 2, "the kept one is used again");
        assert!(!is_readable(&next), "what rang for the ended wait is over");
    }
}
