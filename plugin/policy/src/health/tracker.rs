//! Remembers, for each device, what was reported and what of the past decides the next report.

use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
use crate::health::reason::Reason;
use crate::health::stale_answers::StaleAnswers;
use crate::health::{AssignmentState, Case, Decision, decide};
use crate::pools::terms::Busy;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vfio_probe::{DeviceId, GroupId};

/// The settings of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The policy for held devices whose pool has none.
    pub busy: Busy,
    /// How long a hold without an assignment, or a missing device node, must last before it is reported.
    pub settling: Duration,
    /// Whether a missing device node makes a device Unhealthy.
    pub check_node: bool,
}

/// What a pass decides on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The bound devices.
    pub snapshot: &'a NodeSnapshot,
    /// Which pod each device is assigned to.
    pub assignments: &'a Assignments,
    /// Those of [`HealthTracker::unlisted`] that do not exist.
    pub gone: &'a BTreeSet<DeviceId>,
    /// The time of the pass.
    pub now: Instant,
}

/// The memory of all devices.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct HealthTracker {
    records: BTreeMap<DeviceId, Record>,
    /// Groups of which an Allocate was refused. A refusal is about a group, also while none of its devices is bound.
    refusals: BTreeMap<GroupId, Refusal>,
    /// Whether the latest pass over all devices listed any that is no longer bound.
    lists_unbound: bool,
    /// What the stale answers that the kubelet stores do to devices.
    stale_answers: StaleAnswers,
}

/// The memory of one device.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Record {
    /// The latest decision. None until there is one.
    decision: Option<Decision>,
    /// Why the device was Unhealthy when the previous process of the plugin ended. None once the device was decided.
    carried_over: Option<Box<Reason>>,
    /// Since when the device is known to be assigned to no pod.
    unassigned_since: Option<Instant>,
    /// The device as last seen while it is assigned. An assigned device that is unbound stays listed until its pod ends.
    assigned: Option<Box<DeviceState>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Refusal {
    at: Instant,
    /// A snapshot that contains this many reports contains the probe that found the group held.
    reports_seen: u64,
}

/// What a pass has changed. Without a change it needs no memory.
#[derive(Debug, Default)]
pub struct Pass {
    /// The devices with another decision than before, in the order of ids.
    pub changes: Vec<Change>,
    /// Devices that leave the lists.
    pub dropped: Vec<DeviceId>,
    /// Whether [`HealthTracker::reasons`] may differ.
    pub reasons_changed: bool,
    /// When to decide again even if nothing changes.
    pub decide_again: Option<Instant>,
}

/// A changed decision.
#[derive(Debug)]
pub struct Change {
    /// The device.
    pub device: DeviceId,
    /// The previous decision. None at the first pass with the device.
    pub before: Option<Decision>,
}

impl HealthTracker {
    /// Creates a tracker that has reported nothing. `carried_over` is why devices were Unhealthy when the previous process of
    /// the plugin ended.
    pub fn new(carried_over: BTreeMap<DeviceId, Reason>) -> Self {
        let record =
            |(id, reason)| (id, Record { carried_over: Some(Box::new(reason)), ..Record::default() });
        Self { records: carried_over.into_iter().map(record).collect(), ..Self::default() }
    }

    /// Returns why devices are Unhealthy, for the next process of the plugin. Includes reasons of the previous process for
    /// devices that were not decided yet.
    pub fn reasons(&self) -> impl Iterator<Item = (DeviceId, &Reason)> {
        self.records.iter().filter_map(|(id, record)| Some((*id, record.reported()?)))
    }

    /// Returns the latest decision about a device.
    pub fn decision(&self, id: DeviceId) -> Option<&Decision> {
        self.records.get(&id)?.decision.as_ref()
    }

    /// Returns the stale answer of another pod that names the device's node, as [`Reason::StaleAnswerOfAnotherPod`]. Allocate must not
    /// allocate the device: two pods could open it.
    pub fn stale_answer_of_another_pod(&self, id: DeviceId) -> Option<&Reason> {
        self.stale_answers.of_others.get(&id)
    }

    /// Returns the assigned devices that are no longer bound, as last seen.
    pub fn unbound<'a>(&'a self, snapshot: &'a NodeSnapshot) -> impl Iterator<Item = &'a DeviceState> {
        let assigned = self.records.values().filter_map(|record| record.assigned.as_deref());
        assigned.filter(|device| snapshot.get(device.device.id).is_none())
    }

    /// Returns the devices that are not in the snapshot's list, and for which a decision depends on whether they exist.
    pub fn unlisted<'a>(&'a self, snapshot: &'a NodeSnapshot) -> impl Iterator<Item = DeviceId> + 'a {
        let depends = |record: &Record| record.assigned.is_some() || record.carried_over.is_some();
        let known = self.records.iter().filter(move |(_, record)| depends(record)).map(|(id, _)| *id);
        let known = known.filter(|id| snapshot.get(*id).is_none());
        let new = snapshot.unbound.iter().map(|device| device.device.id);
        known.chain(new.filter(move |id| !self.records.get(id).is_some_and(depends)))
    }

    /// Records that an Allocate of a held group is about to be refused. The group's devices become Unhealthy at once and stay
    /// so until an open succeeds, so that the pod that replaces the refused one gets other devices. A snapshot with
    /// `reports_seen` reports contains the probe that found the group held.
    pub fn refused(&mut self, group: GroupId, reports_seen: u64, now: Instant) {
        self.refusals.insert(group, Refusal { at: now, reports_seen });
    }

    /// Returns the groups that Allocate refused. The kubelet requested their devices, so it counts them as free; only a probe
    /// shows when they are.
    pub fn contested(&self) -> impl Iterator<Item = GroupId> {
        self.refusals.keys().copied()
    }

    /// Returns the devices of the lists with their decisions: the bound ones, then the assigned ones that are no longer bound, as
    /// last seen. Each part is in the order of ids.
    pub fn listed<'a>(
        &'a self,
        snapshot: &'a NodeSnapshot,
    ) -> impl Iterator<Item = (&'a DeviceState, &'a Decision)> {
        let devices = snapshot.devices.iter().chain(self.unbound(snapshot));
        devices.filter_map(|device| Some((device, self.decision(device.device.id)?)))
    }

    /// Decides on every device, and remembers the decisions.
    pub fn decide(&mut self, policy: Policy, facts: &Facts<'_>) -> Pass {
        self.stale_answers = StaleAnswers::new(facts.assignments, facts.snapshot);
        let mut pass = Pass { reasons_changed: self.forget(facts), ..Pass::default() };
        let unbound: Vec<DeviceState> = self.unbound(facts.snapshot).cloned().collect();
        self.lists_unbound = !unbound.is_empty();
        for device in &facts.snapshot.devices {
            self.decide_bound(device, &unbound, policy, facts, &mut pass);
        }
        for (id, record) in &mut self.records {
            if facts.snapshot.get(*id).is_some() {
                continue;
            }
            if record.assigned.is_some() {
                // The scheduler counts the device as requested. Without it in the list, another free device would seem used.
                let reason = if facts.gone.contains(id) { Reason::Gone } else { Reason::NoLongerBound };
                record.replace(*id, Decision::assigned(reason), &mut pass);
            } else if record.decision.take().is_some() {
                pass.dropped.push(*id);
                pass.reasons_changed = true;
            }
        }
        self.records.retain(|_, record| !record.is_empty());
        pass
    }

    /// Decides on the devices `ids` and on their group peers, as [`decide`](Self::decide) would if nothing but the assignments of
    /// these devices has changed since the pass before. Returns none if a pass over all devices is needed.
    ///
    /// The cost depends on the number of these devices, not on that of all.
    pub fn decide_assigned(&mut self, policy: Policy, facts: &Facts<'_>, ids: &[DeviceId]) -> Option<Pass> {
        let Facts { snapshot, assignments, .. } = *facts;
        if self.lists_unbound || !snapshot.unbound.is_empty() {
            return None;
        }
        let mut devices: Vec<&DeviceState> = Vec::with_capacity(ids.len());
        for id in ids {
            let device = snapshot.get(*id)?;
            devices.push(device);
            devices.extend(snapshot.in_group_of(device));
        }
        devices.sort_unstable_by_key(|device| device.device.id);
        devices.dedup_by_key(|device| device.device.id);
        for device in devices.iter().filter(|device| assignments.counts_as_requested(device)) {
            let record = self.records.entry(device.device.id).or_default();
            record.unassigned_since = None;
            record.remember_assigned(device);
        }
        let mut pass = Pass::default();
        for device in devices {
            self.decide_bound(device, &[], policy, facts, &mut pass);
        }
        Some(pass)
    }

    /// Decides on a bound device. `unbound` are the assigned devices that are no longer bound.
    fn decide_bound(
        &mut self,
        device: &DeviceState,
        unbound: &[DeviceState],
        policy: Policy,
        facts: &Facts<'_>,
        pass: &mut Pass,
    ) {
        let assignment = self.assignment(device, unbound, facts);
        let refused = self.is_refused(device);
        let record = self.records.entry(device.device.id).or_default();
        let stale_answer = self.stale_answers.of(device.device.id, assignment == AssignmentState::Assigned);
        let decision = decide(&Case {
            busy: device.terms.busy.unwrap_or(policy.busy),
            device,
            node_counts: facts.snapshot.vfio_visible && policy.check_node,
            assignment,
            stale_answer,
            refused,
            reported: record.reported(),
            settling: policy.settling,
            now: facts.now,
        });
        pass.decide_again = pass.decide_again.into_iter().chain(decision.decide_again).min();
        record.replace(device.device.id, Decision { decide_again: None, ..decision }, pass);
    }

    /// Moves everything that happened to `then` or before.
    #[cfg(any(test, feature = "testing"))]
    pub fn age(&mut self, then: Instant) {
        let unassigned = self.records.values_mut().filter_map(|record| record.unassigned_since.as_mut());
        unassigned.for_each(|since| *since = (*since).min(then));
        self.refusals.values_mut().for_each(|refusal| refusal.at = refusal.at.min(then));
    }

    fn is_refused(&self, device: &DeviceState) -> bool {
        device.device.group.is_some_and(|group| self.refusals.contains_key(&group))
    }

    /// Forgets what has ended: assignments, times without an assignment, refusals and carried-over reasons. Returns whether it
    /// forgot any reason.
    fn forget(&mut self, facts: &Facts<'_>) -> bool {
        let Facts { snapshot, assignments, .. } = *facts;
        let mut forgot_reason = false;
        for (id, record) in &mut self.records {
            record.assigned.take_if(|device| !assignments.counts_as_requested(device));
            let bound = snapshot.get(*id);
            if bound.is_none_or(|device| assignments.counts_as_requested(device)) {
                record.unassigned_since = None;
            }
            // A device that is not bound, or does not exist, is another case when it is bound again. A device that could not
            // be read is not known to be either.
            if bound.is_none() && (facts.gone.contains(id) || !snapshot.may_lack(*id)) {
                forgot_reason |= record.carried_over.take().is_some();
            }
        }
        for device in snapshot.devices.iter().filter(|device| assignments.counts_as_requested(device)) {
            self.records.entry(device.device.id).or_default().remember_assigned(device);
        }
        for device in snapshot.unbound.iter().filter(|device| assignments.counts_as_requested(device)) {
            match &mut self.records.entry(device.device.id).or_default().assigned {
                // The state in which it was bound says more, except for the driver.
                Some(known) if known.group.is_some() => known.device.driver = device.device.driver,
                Some(known) if **known == *device => {}
                known => *known = Some(Box::new(device.clone())),
            }
        }
        self.refusals.retain(|group, refusal| {
            let members = || snapshot.devices.in_group(*group);
            let held = || members().any(DeviceState::is_held);
            // The kubelet has listed the assigned pod since: then its own record of the device was wrong, not the plugin's.
            let confirmed =
                |device| assignments.assignment(device).and_then(|assignment| assignment.confirmed);
            let stands = members().any(|device| confirmed(device).is_some_and(|at| at > refusal.at));
            (snapshot.reports_seen < refusal.reports_seen || held()) && !stands
        });
        forgot_reason
    }

    /// Returns whether a device is assigned. `unbound` are the assigned devices that are no longer bound.
    fn assignment(
        &mut self,
        device: &DeviceState,
        unbound: &[DeviceState],
        facts: &Facts<'_>,
    ) -> AssignmentState {
        let Facts { snapshot, assignments, now, .. } = *facts;
        if assignments.counts_as_requested(device) && !self.is_refused(device) {
            return AssignmentState::Assigned;
        }
        let blocker = assignments.blocker(device, snapshot.in_group_of(device).chain(unbound));
        let peer = blocker.map(|(peer, assignment)| (peer, assignments.describe(assignment)));
        if !assignments.knows(device) && peer.is_none() {
            return AssignmentState::Unknown;
        }
        let record = self.records.entry(device.device.id).or_default();
        AssignmentState::Unassigned { since: *record.unassigned_since.get_or_insert(now), peer }
    }
}

impl Record {
    /// Returns the reason of the latest report, or of the previous process before the first one.
    fn reported(&self) -> Option<&Reason> {
        match &self.decision {
            Some(decision) => decision.health.reason(),
            None => self.carried_over.as_deref(),
        }
    }

    fn is_empty(&self) -> bool {
        let Self { decision, carried_over, unassigned_since, assigned } = self;
        decision.is_none() && carried_over.is_none() && unassigned_since.is_none() && assigned.is_none()
    }

    /// Remembers an assigned device as it is now.
    fn remember_assigned(&mut self, device: &DeviceState) {
        match &mut self.assigned {
            Some(known) if **known == *device => {}
            Some(known) => **known = device.clone(),
            none => *none = Some(Box::new(device.clone())),
        }
    }

    /// Records a decision about the device `id`. Notes in the pass what it changes.
    fn replace(&mut self, id: DeviceId, decision: Decision, pass: &mut Pass) {
        pass.reasons_changed |= self.carried_over.take().is_some();
        if self.decision.as_ref() == Some(&decision) {
            return;
        }
        pass.reasons_changed |= self.decision.as_ref().and_then(Decision::reason) != decision.reason();
        let before = self.decision.replace(decision);
        pass.changes.push(Change { device: id, before });
    }
}

#[cfg(test)]
mod tests;
