//! Decides which groups a pass peeks at and probes, and records the results.

use super::groups::Group;
use super::{Change, Monitor};
use crate::error::{Error, Result};
use crate::holders::Holder;
use crate::id::{DeviceId, GroupId};
use crate::occupancy::{Observation, Occupancy, UnknownReason, prove_held};
use crate::peek::Peek;
use crate::prober::{Done, ProbeResult, Request};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Receives probe results from the helper threads and signals them with an eventfd.
pub(super) struct Results {
    arrived: Mutex<Vec<ProbeResult>>,
    signal: OwnedFd,
}

impl Results {
    /// # Errors
    /// The kernel creates no eventfd.
    pub(super) fn new() -> Result<Self> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::system(errno, "eventfd"))?;
        Ok(Self { arrived: Mutex::default(), signal })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    /// Adds a result. `more` means that further results follow at once, so the signal can wait for
    /// them.
    fn add(&self, result: ProbeResult, more: bool) {
        // Signals are sent and cleared under the lock. Otherwise one could come after its result was
        // taken, and would stay, or be cleared before.
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.push(result);
        if !more {
            // This fails only after 2^64 - 2 signals that were not read.
            let _ = rustix::io::write(&self.signal, &1_u64.to_ne_bytes());
        }
    }

    fn take(&self) -> Vec<ProbeResult> {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        if !arrived.is_empty() {
            // The read clears the eventfd. It fails with EAGAIN if further results follow at once.
            let _ = rustix::io::read(&self.signal, &mut [0_u8; 8]);
        }
        std::mem::take(&mut arrived)
    }
}

impl Monitor {
    /// Records the probe results that have arrived. A probe without a result by its deadline counts
    /// as timed out. Never blocks.
    pub fn collect(&mut self, now: Instant, changes: &mut Vec<Change>) {
        for result in self.results.take() {
            self.lower_baselines(&result);
            let Ok(index) = self.groups.binary_search_by_key(&result.group, |group| group.id) else {
                continue;
            };
            // A result that arrives after the deadline is dropped, because the state may have
            // changed meanwhile.
            if self.groups.get_mut(index).is_some_and(|group| group.probe_since.take().is_some()) {
                self.record_result(index, result.occupancy, now, changes);
            }
        }
        let deadline = self.options.probe_deadline;
        for index in 0..self.groups.len() {
            let late = |since: &mut Instant| now.duration_since(*since) > deadline;
            if self.groups.get_mut(index).is_some_and(|group| group.probe_since.take_if(late).is_some()) {
                self.record_result(index, Occupancy::Unknown(UnknownReason::TimedOut), now, changes);
            }
        }
        self.report_unknown(changes);
    }

    /// Reports each new group that was observed and stayed unknown, because it has had no change yet.
    fn report_unknown(&mut self, changes: &mut Vec<Change>) {
        let paused = self.paused;
        let is_due = |group: &&mut Group| group.watched && !group.reported && group.probe_since.is_none();
        for group in self.groups.iter_mut().filter(|_| !paused).filter(is_due) {
            group.reported = true;
            if group.state.occupancy == Occupancy::Unknown(UnknownReason::NotProbed) {
                changes.push(Change::Changed(group.id));
            }
        }
    }

    /// Peeks at the groups and starts the probes that are wanted.
    pub(super) fn observe_groups(&mut self, now: Instant, changes: &mut Vec<Change>) {
        let mut requests = Vec::new();
        for index in 0..self.groups.len() {
            requests.extend(self.observe(index, now, changes));
        }
        if requests.is_empty() {
            self.prober.ensure_progress();
        } else {
            let groups = &mut self.groups;
            self.prober.start_all(requests, |refused| {
                // An earlier probe of the group still hangs. Its result, or the deadline, comes
                // first.
                let refused = groups.iter_mut().filter(|group| group.id == refused);
                refused.for_each(|group| group.probe_since = None);
            });
        }
        self.report_unknown(changes);
    }

    /// Peeks at one group. Returns a request if only a probe can decide.
    fn observe(&mut self, index: usize, now: Instant, changes: &mut Vec<Change>) -> Option<(Request, Done)> {
        let group = self.groups.get_mut(index).filter(|group| group.watched)?;
        let assigned = self.assigned.includes(group.id, &self.bound);
        let can_wait = group.state.observation_can_wait(group.node, assigned);
        if self.paused && can_wait {
            return None;
        }
        if !self.options.probe || !can_wait {
            group.peek = match self.bound.peek(&self.root, group.id) {
                Ok(peek) => Some(peek),
                // This process has no descriptor left, which says nothing about the group.
                Err(error) if error.is_shortage() => return None,
                // A count that cannot be read changes nothing. The listing finds a device that was
                // removed.
                Err(_) => group.peek.or(Some(Peek::Unavailable)),
            };
        }
        let wanted = observe_peek(group, assigned, now, changes);
        if !wanted || self.paused || group.probe_since.is_some() || !self.options.probe {
            return None;
        }
        group.probe_since = Some(now);
        let baseline_of = match group.peek {
            Some(Peek::LooksHeld) => self.devices_in(index),
            _ => Vec::new(),
        };
        let group = self.groups.get(index)?.id;
        let request = Request { group, baseline_of, deadline: now + self.options.probe_deadline };
        let results = Arc::clone(&self.results);
        Some((request, Box::new(move |result, more| results.add(result, more))))
    }

    /// Records that a process was seen with a group open. `seen` is when.
    ///
    /// The occupancy becomes held by [`Evidence::Holder`](crate::Evidence::Holder), if the
    /// descriptor proves that and nothing newer says otherwise. Does nothing for an unknown group.
    pub fn record_holder(&mut self, holder: &Holder, seen: Instant, now: Instant, changes: &mut Vec<Change>) {
        let Some(group) = self.group_mut(holder.group) else { return };
        if prove_held(std::slice::from_ref(holder), group.peek.unwrap_or(Peek::LooksFree)) {
            let before = group.state.occupancy;
            group.state.record_holder(seen, now);
            changes.extend(change_between(group.id, before, group.state.occupancy));
        }
    }

    /// Records that no process is known any more that has the group open. Does nothing if the group
    /// is held for another reason.
    pub fn forget_holder(&mut self, group: GroupId, now: Instant, changes: &mut Vec<Change>) {
        if let Some(group) = self.group_mut(group) {
            let before = group.state.occupancy;
            group.state.forget_holder(group.peek, now);
            changes.extend(change_between(group.id, before, group.state.occupancy));
        }
    }

    fn devices_in(&self, index: usize) -> Vec<DeviceId> {
        let group = self.groups.get(index).map(|group| group.id);
        let in_group = self.bound.devices.iter().filter(|tracked| tracked.device.group == group);
        in_group.map(|tracked| tracked.device.id).collect()
    }

    /// Records the result of a probe that this monitor has started.
    fn record_result(&mut self, index: usize, result: Occupancy, now: Instant, changes: &mut Vec<Change>) {
        let Some(group) = self.groups.get_mut(index) else { return };
        if let (Occupancy::Unknown(_), None) = (result, group.peek) {
            // The probe should have made the peek unnecessary, but it was inconclusive.
            let assigned = self.assigned.includes(group.id, &self.bound);
            let peek = self.bound.peek(&self.root, group.id);
            group.peek = Some(peek.unwrap_or(Peek::Unavailable));
            let _ = observe_peek(group, assigned, now, changes);
        }
        record(group, result, now, changes);
    }

    fn lower_baselines(&mut self, result: &ProbeResult) {
        for (device, count) in &result.baselines {
            for tracked in self.bound.devices.iter_mut().filter(|tracked| tracked.device.id == *device) {
                tracked.enable.lower(*count);
            }
        }
    }
}

/// Records the latest peek at a group. Returns whether a probe is wanted.
fn observe_peek(group: &mut Group, assigned: bool, now: Instant, changes: &mut Vec<Change>) -> bool {
    let before = group.state.occupancy;
    let wanted = group.state.observe(&Observation { now, peek: group.peek, node: group.node, assigned });
    changes.extend(change_between(group.id, before, group.state.occupancy));
    wanted
}

/// Records the result of a probe of a group.
pub(super) fn record(group: &mut Group, result: Occupancy, now: Instant, changes: &mut Vec<Change>) {
    let before = group.state.occupancy;
    group.state.record_probe(result, group.peek, now);
    changes.extend(change_between(group.id, before, group.state.occupancy));
}

fn change_between(group: GroupId, before: Occupancy, after: Occupancy) -> Option<Change> {
    match (before, after) {
        (before, after) if before == after => None,
        (_, Occupancy::Held) => Some(Change::Held(group)),
        (_, Occupancy::Free) => Some(Change::Freed(group)),
        _ => Some(Change::Changed(group)),
    }
}
