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

/// The decisions of a pass.
#[derive(Debug)]
pub struct Pass<'a> {
    /// The devices of the lists: the bound ones, then the assigned ones that are no longer bound, each in the order of ids.
    pub devices: Vec<DeviceDecision<'a>>,
    /// Devices that leave the lists.
    pub dropped: Vec<DeviceId>,
    /// When to decide again even if nothing changes.
    pub decide_again: Option<Instant>,
}

/// The decision about one device.
#[derive(Debug)]
pub struct DeviceDecision<'a> {
    /// The device. One that is no longer bound is as it was last seen.
    pub device: &'a DeviceState,
    /// The previous decision. None at the first pass with the device.
    pub before: Option<Decision>,
    /// The decision of this pass.
    pub after: &'a Decision,
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

    /// Decides on every device, and remembers the decisions.
    pub fn decide<'a>(&'a mut self, policy: Policy, facts: Facts<'a>) -> Pass<'a> {
        self.forget(&facts);
        self.stale_answers = StaleAnswers::new(facts.assignments, facts.snapshot);
        let unbound: Vec<DeviceState> = self.unbound(facts.snapshot).cloned().collect();
        let mut decide_again: Option<Instant> = None;
        let mut before = Vec::with_capacity(facts.snapshot.devices.len() + unbound.len());
        for device in &facts.snapshot.devices {
            let assignment = self.assignment(device, &unbound, &facts);
            let refused = self.is_refused(device);
            let record = self.records.entry(device.device.id).or_default();
            let stale_answer =
                self.stale_answers.of(device.device.id, assignment == AssignmentState::Assigned);
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
            decide_again = decide_again.into_iter().chain(decision.decide_again).min();
            before.push(record.replace(Decision { decide_again: None, ..decision }));
        }
        let mut dropped = Vec::new();
        for (id, record) in &mut self.records {
            if facts.snapshot.get(*id).is_some() {
                continue;
            }
            if record.assigned.is_some() {
                // The scheduler counts the device as requested. Without it in the list, another free device would seem used.
                let reason = if facts.gone.contains(id) { Reason::Gone } else { Reason::NoLongerBound };
                before.push(record.replace(Decision::assigned(reason)));
            } else if record.decision.take().is_some() {
                dropped.push(*id);
            }
        }
        self.records.retain(|_, record| !record.is_empty());
        let decided: &'a Self = self;
        let mut devices = Vec::with_capacity(before.len());
        let listed = facts.snapshot.devices.iter().chain(decided.unbound(facts.snapshot));
        devices.extend(listed.zip(before).filter_map(|(device, before)| {
            Some(DeviceDecision { device, before, after: decided.decision(device.device.id)? })
        }));
        Pass { devices, dropped, decide_again }
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

    /// Forgets what has ended: assignments, times without an assignment, refusals and carried-over reasons.
    fn forget(&mut self, facts: &Facts<'_>) {
        let Facts { snapshot, assignments, .. } = *facts;
        for (id, record) in &mut self.records {
            record.assigned.take_if(|device| !assignments.counts_as_requested(device));
            let bound = snapshot.get(*id);
            if bound.is_none_or(|device| assignments.counts_as_requested(device)) {
                record.unassigned_since = None;
            }
            // A device that is not bound, or does not exist, is another case when it is bound again. A device that could not
            // be read is not known to be either.
            if bound.is_none() && (facts.gone.contains(id) || !snapshot.may_lack(*id)) {
                record.carried_over = None;
            }
        }
        for device in snapshot.devices.iter().filter(|device| assignments.counts_as_requested(device)) {
            match &mut self.records.entry(device.device.id).or_default().assigned {
                Some(known) if **known == *device => {}
                Some(known) => **known = device.clone(),
                none => *none = Some(Box::new(device.clone())),
            }
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
            let members = || snapshot.devices.iter().filter(|device| device.device.group == Some(*group));
            let held = || members().any(DeviceState::is_held);
            // The kubelet has listed the assigned pod since: then its own record of the device was wrong, not the plugin's.
            let confirmed =
                |device| assignments.assignment(device).and_then(|assignment| assignment.confirmed);
            let stands = members().any(|device| confirmed(device).is_some_and(|at| at > refusal.at));
            (snapshot.reports_seen < refusal.reports_seen || held()) && !stands
        });
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
        let blocker = assignments.blocker(device, snapshot.devices.iter().chain(unbound));
        let peer = blocker.map(|(peer, assignment)| (peer, assignment.pod.to_string()));
        if !assignments.known && peer.is_none() {
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

    /// Records a decision. Returns the previous one.
    fn replace(&mut self, decision: Decision) -> Option<Decision> {
        self.carried_over = None;
        self.decision.replace(decision)
    }
}

#[cfg(test)]
mod tests;
