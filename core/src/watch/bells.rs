//! Wakes the waits of other threads when one thread has taken in news.
//!
//! The descriptor of the watch cannot do that: it is readable only until one thread has read the
//! sources behind it.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An eventfd that is readable while there is news that its wait has not evaluated.
#[derive(Debug)]
pub(super) struct Bell {
    fd: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    fn new() -> rustix::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, rung: AtomicBool::new(false) })
    }

    fn ring(&self) {
        if !self.rung.swap(true, Ordering::Relaxed) {
            // Cannot fail: the counter of the eventfd is at most 1.
            let _ = write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Makes the descriptor unreadable again. A system call only if the bell has rung.
    fn clear(&self) {
        if self.rung.swap(false, Ordering::Relaxed) {
            let _ = read(&self.fd, &mut [0_u8; 8]);
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The bells of all waits of a watch. It is used under the lock of the watch.
#[derive(Debug, Default)]
pub(super) struct Bells {
    /// A bell that only this list refers to belongs to a wait that has ended. One of them is kept for the next
    /// wait, so that a thread that waits again and again creates one descriptor.
    all: Vec<Arc<Bell>>,
}

impl Bells {
    /// Readies the bell of a wait for its next poll. Creates one for a wait that has none. If this
    /// process has no descriptor left, the wait stays without one.
    pub(super) fn ready(&mut self, bell: &mut Option<Arc<Bell>>) {
        if bell.is_none() {
            *bell = self.take();
        }
        if let Some(bell) = bell {
            bell.clear();
        }
    }

    /// Rings all bells except that of the wait that has taken in the news.
    pub(super) fn ring_others(&mut self, own: Option<&Arc<Bell>>) {
        drop(self.unused());
        for bell in &self.all {
            if own.is_none_or(|own| !Arc::ptr_eq(own, bell)) && Arc::strong_count(bell) > 1 {
                bell.ring();
            }
        }
    }

    /// Returns a bell for a wait: one that is unused, or a new one.
    fn take(&mut self) -> Option<Arc<Bell>> {
        self.unused().or_else(|| {
            let bell = Arc::new(Bell::new().ok()?);
            self.all.push(Arc::clone(&bell));
            Some(bell)
        })
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

    fn has_rung(bell: Option<&Arc<Bell>>) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(bell.unwrap(), PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn news_ring_each_bell_until_its_own_wait_clears_it() {
        let (mut bells, mut first, mut second, mut third) = (Bells::default(), None, None, None);
        for bell in [&mut first, &mut second, &mut third] {
            bells.ready(bell);
        }
        bells.ring_others(first.as_ref());
        bells.ring_others(first.as_ref());
        assert!(!has_rung(first.as_ref()) && has_rung(second.as_ref()) && has_rung(third.as_ref()));
        bells.ready(&mut second);
        assert!(!has_rung(second.as_ref()) && has_rung(third.as_ref()), "one clears no other");
        bells.ring_others(None);
        assert!(has_rung(first.as_ref()) && has_rung(second.as_ref()));
    }

    #[test]
    fn ended_wait_leaves_its_bell_to_the_next_one() {
        let (mut bells, mut first, mut second) = (Bells::default(), None, None);
        bells.ready(&mut first);
        bells.ready(&mut second);
        bells.ring_others(None);
        drop((first, second));
        bells.ring_others(None);
        assert_eq!(bells.all.len(), 1, "at most one is kept");
        let mut third = None;
        bells.ready(&mut third);
        assert_eq!(bells.all.len(), 1, "the kept one is used again");
        assert!(!has_rung(third.as_ref()), "what rang for the ended wait is over");
    }
}
