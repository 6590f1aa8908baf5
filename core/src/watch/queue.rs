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
