//! Queues the events until the caller takes them.

use super::Event;
use std::collections::VecDeque;

/// The events that the caller has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    events: VecDeque<Event>,
    total: u64,
}

impl Queue {
    pub(super) fn push(&mut self, event: Event) {
        self.events.push_back(event);
        self.total += 1;
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns the number of events so far, taken or not.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Replaces the events by one [`Event::Rescan`] if there are more than `limit`. An
    /// [`Event::Ready`] stays, because it comes once.
    pub(super) fn bound(&mut self, limit: usize) {
        if self.events.len() > limit {
            let is_ready = self.events.contains(&Event::Ready);
            self.events.clear();
            self.events.push_back(Event::Rescan);
            self.events.extend(is_ready.then_some(Event::Ready));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GroupId;

    #[test]
    fn queue_that_is_too_long_becomes_one_rescan() {
        let mut queue = Queue::default();
        for number in 0..3 {
            queue.push(Event::Held(GroupId(number)));
        }
        queue.bound(3);
        assert_eq!(queue.events, [0, 1, 2].map(|number| Event::Held(GroupId(number))));
        queue.bound(2);
        assert_eq!((queue.total(), queue.pop(), queue.pop()), (3, Some(Event::Rescan), None));
        queue.push(Event::Ready);
        queue.push(Event::Freed(GroupId(1)));
        queue.bound(1);
        assert_eq!(queue.events, [Event::Rescan, Event::Ready]);
    }
}
