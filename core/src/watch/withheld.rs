//! Withholds the event that a group is held until its holders can be named, or for a short time.
//!
//! Most consumers name the holders when the event arrives. The search for them runs on another
//! thread and usually needs a few milliseconds.

use super::Event;
use super::queue::Queue;
use crate::id::GroupId;
use crate::monitor::Change;
use std::time::{Duration, Instant};

/// Longest time that an event is withheld.
const LONGEST: Duration = Duration::from_millis(150);

/// Groups that became held, and when their event is due in any case.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    groups: Vec<(GroupId, Instant)>,
    is_new: bool,
}

impl Withheld {
    /// Withholds the event of a group. An earlier one of the same group goes out first.
    pub(super) fn add(&mut self, group: GroupId, now: Instant, events: &mut Queue) {
        self.let_go(|other| other == group, events);
        self.groups.push((group, now + LONGEST));
        self.is_new = true;
    }

    /// Passes on any other change. Withheld events that it follows go out first, so that the events
    /// of a group and of its devices keep their order.
    pub(super) fn pass(&mut self, change: Change, events: &mut Queue) {
        let event = Event::from(change);
        match event.group() {
            // The event that the group is held includes it.
            Some(group) if matches!(event, Event::Changed(_)) && self.contains(group) => {
                return self.let_go(|other| other == group, events);
            }
            Some(group) => self.let_go(|other| other == group, events),
            None => self.let_go(|_| true, events),
        }
        events.push(event);
    }

    /// Releases the events that are due, and those of groups whose holders are not unknown any
    /// more.
    pub(super) fn release(&mut self, now: Instant, is_unknown: impl Fn(GroupId) -> bool, events: &mut Queue) {
        self.groups.retain(|&(group, due)| {
            let stays = now < due && is_unknown(group);
            if !stays {
                events.push(Event::Held(group));
            }
            stays
        });
    }

    /// Returns how long it is until the first event is due, if one was added since the previous
    /// call.
    pub(super) fn pause_for_new(&mut self, now: Instant) -> Option<Duration> {
        let due = self.groups.iter().map(|&(_, due)| due).min();
        due.filter(|_| std::mem::take(&mut self.is_new)).map(|due| due.saturating_duration_since(now))
    }

    /// Returns whether no event is withheld.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn contains(&self, group: GroupId) -> bool {
        self.groups.iter().any(|&(other, _)| other == group)
    }

    fn let_go(&mut self, goes: impl Fn(GroupId) -> bool, events: &mut Queue) {
        self.groups.retain(|&(group, _)| {
            let stays = !goes(group);
            if !stays {
                events.push(Event::Held(group));
            }
            stays
        });
    }
}
