//! Pure: what the kubelet has been told of each device, and what of the past decides what it is told next.

use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
use crate::health::{AssignmentState, Case, Decision, Health, decide};
use crate::pools::terms::Busy;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vfio_probe::{DeviceId, GroupId};

/// Config of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// What to do with held devices where their pool does not say.
    pub busy: Busy,
    /// How long something may be odd before it is told.
    pub settling: Duration,
    /// Whether a missing device node is told.
    pub nodes: bool,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct HealthTracker {
    told: BTreeMap<DeviceId, Decision>,
    /// UnknownReason devices were Unhealthy when an earlier process of ours ended.
    before: BTreeMap<DeviceId, Health>,
    /// Since when no pod owns a device.
    unowned: BTreeMap<DeviceId, Instant>,
    /// Groups of which an Allocate was refused.
    refused: BTreeMap<GroupId, Refusal>,
    /// Owned devices as last seen: one that is unbound stays listed until its pod ends.
    owned: BTreeMap<DeviceId, DeviceState>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Refusal {
    at: Instant,
    /// A snapshot that has reports_seen as many answers to opens knows that the group is held.
    reports_seen: u64,
}

/// What a round has decided beyond the single devices.
#[derive(Debug, Default)]
pub struct HealthRound {
    /// Devices that are told of no more.
    pub dropped: Vec<DeviceId>,
    /// When to decide again though nothing changes.
    pub again: Option<Instant>,
}

impl HealthTracker {
    /// Nothing told yet by this process; an earlier one has left these devices Unhealthy for these reasons.
    pub fn new(unhealthy: BTreeMap<String, String>) -> Self {
        let known = |(id, reason): (String, String)| Some((id.parse().ok()?, Health::Unhealthy(reason)));
        Self { before: unhealthy.into_iter().filter_map(known).collect(), ..Self::default() }
    }

    /// UnknownReason devices are Unhealthy, to be kept over a restart: what nobody can tell at once then stays as it was.
    pub fn unhealthy(&self) -> BTreeMap<String, String> {
        let reason = |decision: &Decision| decision.health.reason().map(str::to_owned);
        self.told.iter().filter_map(|(id, told)| Some((id.to_string(), reason(told)?))).collect()
    }

    /// What was told of a device.
    pub fn of(&self, id: DeviceId) -> Option<&Decision> {
        self.told.get(&id)
    }

    /// Devices that pods own and that are no longer bound, as last seen.
    pub fn unbound<'a>(&'a self, snapshot: &'a NodeSnapshot) -> impl Iterator<Item = &'a DeviceState> {
        self.owned.values().filter(|view| snapshot.of(view.device.id).is_none())
    }

    /// An Allocate of a held group is about to be refused: until an open succeeds it is Unhealthy without settling, so
    /// that whoever replaces the refused pod is given another. `reports_seen` answers to opens include the one that said so.
    pub fn refused(&mut self, group: GroupId, reports_seen: u64, now: Instant) {
        self.refused.insert(group, Refusal { at: now, reports_seen });
    }

    /// Groups that were refused in spite of what is owned: the kubelet asks for what it knows as free, so that only an open
    /// tells when they are.
    pub fn contested(&self) -> impl Iterator<Item = GroupId> {
        self.refused.keys().copied()
    }

    /// Decides on every device; `visit` is called with each in the order of ids within bound and unbound ones, with what was
    /// told before and what is told now. `exists` tells whether a device that is not bound is there at all.
    pub fn decide(
        &mut self,
        policy: Policy,
        (snapshot, owners, now): (&NodeSnapshot, &Assignments, Instant),
        exists: &dyn Fn(DeviceId) -> bool,
        visit: &mut dyn FnMut(&DeviceState, Option<&Decision>, &Decision),
    ) -> HealthRound {
        self.forget(snapshot, owners);
        let mut round = HealthRound::default();
        let mut told = BTreeMap::new();
        for view in &snapshot.devices {
            let id = view.device.id;
            let standing = self.standing(view, snapshot, owners, now);
            let before = self.told.get(&id);
            let decision = decide(&Case {
                busy: view.terms.busy.unwrap_or(policy.busy),
                view,
                vfio_visible: snapshot.vfio_visible && policy.nodes,
                standing,
                refused: self.is_refused(view),
                before: before.map(|decision| &decision.health).or_else(|| self.before.get(&id)),
                settling: policy.settling,
                now,
            });
            round.again = round.again.into_iter().chain(decision.again).min();
            visit(view, before, &decision);
            told.insert(id, Decision { again: None, ..decision });
        }
        // A device that a pod owns is counted as requested: to drop it would take it from the free ones.
        for (id, view) in self.owned.iter().filter(|(id, _)| snapshot.of(**id).is_none()) {
            let decision = unbound(exists(*id));
            visit(view, self.told.get(id), &decision);
            told.insert(*id, decision);
        }
        round.dropped = self.told.keys().filter(|id| !told.contains_key(id)).copied().collect();
        self.told = told;
        // Of what comes later nobody has told anything.
        self.before.clear();
        round
    }

    /// Whatever happened did so before `then`.
    #[cfg(any(test, feature = "testing"))]
    pub fn age(&mut self, then: Instant) {
        self.unowned.values_mut().for_each(|since| *since = (*since).min(then));
        self.refused.values_mut().for_each(|refusal| refusal.at = refusal.at.min(then));
    }

    fn is_refused(&self, view: &DeviceState) -> bool {
        view.device.group.is_some_and(|group| self.refused.contains_key(&group))
    }

    /// Lets go of what has ended.
    fn forget(&mut self, snapshot: &NodeSnapshot, owners: &Assignments) {
        self.owned.retain(|_, view| owners.counts_as_requested(view));
        for view in snapshot.devices.iter().filter(|view| owners.counts_as_requested(view)) {
            self.owned.insert(view.device.id, view.clone());
        }
        for view in snapshot.unbound.iter().filter(|view| owners.counts_as_requested(view)) {
            self.owned.entry(view.device.id).or_insert_with(|| view.clone());
        }
        self.unowned.retain(|id, _| snapshot.of(*id).is_some_and(|view| !owners.counts_as_requested(view)));
        self.refused.retain(|group, refusal| {
            let members = || snapshot.devices.iter().filter(|view| view.device.group == Some(*group));
            let held = || members().any(DeviceState::is_held);
            // A pod that the kubelet lists still owns it: then it was the kubelet's books that were wrong.
            let listed = |view| owners.assignment(view).and_then(|given| given.confirmed);
            let stands = members().any(|view| listed(view).is_some_and(|at| at > refusal.at));
            (snapshot.reports_seen < refusal.reports_seen || held()) && !stands
        });
    }

    fn standing(
        &mut self,
        view: &DeviceState,
        snapshot: &NodeSnapshot,
        owners: &Assignments,
        now: Instant,
    ) -> AssignmentState {
        if owners.counts_as_requested(view) && !self.is_refused(view) {
            return AssignmentState::Assigned;
        }
        let keeper = owners.blocker(view, snapshot.devices.iter().chain(self.owned.values()));
        let peer = keeper.map(|(keeper, given)| (keeper, given.pod.to_string()));
        if !owners.known && peer.is_none() {
            return AssignmentState::Unknown;
        }
        let since = *self.unowned.entry(view.device.id).or_insert(now);
        AssignmentState::Unassigned { since, peer }
    }
}

/// An owned device that is no longer bound: only lost hardware is told of.
fn unbound(exists: bool) -> Decision {
    if exists {
        let warning = Some("no longer bound to a VFIO driver".to_owned());
        return Decision { health: Health::Healthy, again: None, warning };
    }
    Decision { health: Health::Unhealthy("the device is gone".to_owned()), again: None, warning: None }
}

#[cfg(test)]
mod tests;
