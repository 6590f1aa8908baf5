//! Plays events on a state, and judges states.

use super::driver::{Driver, SeenDevice};
use super::moves::Move;
use super::state::{Claim, Device, Holder, Slices, State};
use super::{Bounds, Rule};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The world in which events are played.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) bounds: Bounds,
    pub(super) rule: Rule,
    /// The only time of the model, beside a time long before it.
    pub(super) now: Instant,
}

impl World {
    /// Returns the first state: all devices are bound and free, and the scheduler knows that.
    pub(super) fn start(&self) -> State {
        let free = Device { bound: true, holder: Holder::None };
        let mut state = State {
            devices: vec![free; self.bounds.groups.len()],
            claims: vec![Claim::ToCome; usize::from(self.bounds.claims)],
            driver: Driver::default(),
            answers: true,
            stored: Slices::new(),
            seen: Slices::new(),
            write: None,
            late: None,
            promised: BTreeSet::new(),
            restarts: 0,
            violation: None,
        };
        for event in
            [Move::MonitorPass, Move::TimePasses, Move::Write, Move::WriteArrives, Move::SchedulerSees]
        {
            self.play(&mut state, event);
        }
        state
    }

    fn group(&self, device: u8) -> u32 {
        self.bounds.groups[usize::from(device)]
    }

    fn members(&self, group: u32) -> impl Iterator<Item = u8> + '_ {
        (0..).zip(&self.bounds.groups).filter(move |(_, of)| **of == group).map(|(member, _)| member)
    }

    /// Returns whether a device of the device's group is open.
    pub(super) fn is_held(&self, state: &State, device: u8) -> bool {
        self.members(self.group(device)).any(|member| state.device(member).holder != Holder::None)
    }

    /// Returns the devices that the scheduler can allocate by these slices. It knows its own allocations.
    pub(super) fn allocatable(&self, state: &State, slices: &Slices) -> BTreeSet<u8> {
        let allocated = state.allocated();
        let groups: BTreeSet<u32> = allocated.iter().map(|device| self.group(*device)).collect();
        let can = slices.iter().filter(|(device, entry)| {
            let is_used = entry.counted && groups.contains(&self.group(**device));
            !entry.withheld && !is_used && !allocated.contains(*device)
        });
        can.map(|(device, _)| *device).collect()
    }

    /// Plays an event.
    pub(super) fn play(&self, state: &mut State, event: Move) {
        match event {
            Move::Allocate(claim, device) => state.set_claim(claim, Claim::Allocated(device)),
            Move::Prepare(claim) => self.prepare(state, claim),
            Move::Record(claim) => {
                if let Claim::Prepared(device) = state.claim(claim) {
                    state.driver.record.entry(claim).or_insert(device);
                }
            }
            Move::VmStarts(claim) => {
                if let Claim::Prepared(device) | Claim::Forced(device) = state.claim(claim)
                    && state.device(device).bound
                    && !self.is_held(state, device)
                {
                    state.set_holder(device, Holder::Claim(claim));
                }
            }
            Move::End { claim, hangs } => self.end(state, claim, hangs),
            Move::Force(claim) => {
                if let Claim::Prepared(device) = state.claim(claim) {
                    state.set_claim(claim, Claim::Forced(device));
                }
            }
            Move::Unprepare(claim) => self.unprepare(state, claim),
            Move::ForeignOpens(device) => state.set_holder(device, Holder::Foreign),
            Move::ForeignCloses(device) => {
                state.set_holder(device, Holder::None);
                state.promised.remove(&self.group(device));
            }
            Move::Unbind(device) => state.devices[usize::from(device)].bound = false,
            Move::Bind(device) => state.devices[usize::from(device)].bound = true,
            Move::MonitorPass => {
                let seen = self.seen(state);
                state.driver.take_snapshot(&seen, self.now);
                state.driver.wanted(self.now);
            }
            Move::TimePasses => {
                state.driver.age(self.now - Duration::from_secs(10));
                if state.driver.has_checked() {
                    state.driver.wanted(self.now);
                }
            }
            Move::Write => {
                if state.answers && state.driver.has_checked() {
                    let wanted = state.driver.wanted(self.now);
                    state.write = (wanted != state.stored).then_some(wanted);
                }
            }
            Move::WriteArrives => {
                if let Some(write) = state.write.take() {
                    self.store(state, write);
                }
            }
            Move::WriteTimesOut => state.late = state.write.take(),
            Move::LateWriteArrives => {
                if let Some(write) = state.late.take() {
                    self.store(state, write);
                }
            }
            Move::SchedulerSees => state.seen = state.stored.clone(),
            Move::ApiServerGoes => state.answers = false,
            Move::ApiServerReturns => state.answers = true,
            Move::DriverRestarts => {
                (state.restarts, state.write) = (state.restarts + 1, None);
                state.driver.restart();
            }
        }
    }

    /// Returns the devices as sysfs and probes show them.
    fn seen(&self, state: &State) -> Vec<SeenDevice> {
        let seen = |device: u8| SeenDevice {
            device,
            group: self.group(device),
            bound: state.device(device).bound,
            held: self.is_held(state, device),
        };
        state.all_devices().map(seen).collect()
    }

    /// The API server stores slices.
    fn store(&self, state: &mut State, slices: Slices) {
        state.stored = slices;
        state.late = None;
        // The scheduler allocates no device that a claim has.
        let taken: BTreeSet<u32> = state.allocated().into_iter().map(|device| self.group(device)).collect();
        if state.promised.iter().any(|group| self.offers(state, *group) && !taken.contains(group)) {
            state.violation = Some("a held device is offered again that was refused or given back");
        }
    }

    /// Returns whether the stored slices offer a device of a group.
    fn offers(&self, state: &State, group: u32) -> bool {
        self.members(group).any(|member| state.stored.get(&member).is_some_and(|entry| !entry.withheld))
    }

    /// Waits until the API server stores that no device of a held group must be allocated. Returns false if it does not.
    fn withhold(&self, state: &mut State, group: u32) -> bool {
        if !state.answers || !state.driver.has_checked() {
            return false;
        }
        // One write at a time: the one under way arrives first.
        self.play(state, Move::WriteArrives);
        state.driver.found_held(group, self.now);
        let wanted = state.driver.wanted(self.now);
        let fences = state.late.is_some() && self.rule != Rule::TrustAfterTimeout;
        if wanted != state.stored || fences {
            self.store(state, wanted);
        }
        let is_withheld = !self.offers(state, group);
        if is_withheld {
            state.promised.insert(group);
        }
        is_withheld
    }

    /// The kubelet gets the claim from the API server and calls Prepare. A call that waits for the end of another claim is the same as a call
    /// after that end: it holds nothing before, and reads the claim again.
    fn prepare(&self, state: &mut State, claim: u8) {
        let Claim::Allocated(device) = state.claim(claim) else { return };
        let group = self.group(device);
        if self.rule == Rule::EndForced && !self.is_held(state, device) {
            let forced = |other: &u8| state.claims[usize::from(*other)].is_forced();
            state.driver.record.retain(|other, _| !forced(other));
        }
        let others = state.driver.record.iter().filter(|(other, _)| **other != claim);
        let is_claimed = others.map(|(_, device)| self.group(*device)).any(|other| other == group);
        if !state.answers || is_claimed || !state.device(device).bound || !state.driver.saw_bound(device) {
            return;
        }
        if self.is_held(state, device) && state.driver.record.contains_key(&claim) {
            // Refused. The claim stays in the record, and its device is withheld when it is unprepared.
            return;
        }
        if self.is_held(state, device) {
            let withheld = self.rule == Rule::RefuseFirst || self.withhold(state, group);
            if withheld && self.offers(state, group) {
                state.violation = Some("a claim was refused whose held device is offered");
            }
            return;
        }
        if self.rule != Rule::RecordAfterAnswer && state.driver.record.insert(claim, device).is_none() {
            // The driver may be killed before it answers. The kubelet then calls again.
            return;
        }
        let mut prepared = state.claims.iter().filter_map(|other| other.prepared_device());
        if prepared.any(|other| self.group(other) == group) {
            state.violation = Some("two claims are prepared for one group");
        }
        state.set_claim(claim, Claim::Prepared(device));
    }

    /// The containers of a claim's pod end.
    fn end(&self, state: &mut State, claim: u8, hangs: bool) {
        let Some(device) = state.claim(claim).device() else { return };
        if state.device(device).holder == Holder::Claim(claim) {
            state.set_holder(device, if hangs { Holder::Foreign } else { Holder::None });
        }
        // The kubelet unprepares a claim for which it has called Prepare, also without an answer.
        let (was_prepared, was_forced) =
            (state.claim(claim).prepared_device().is_some(), state.claim(claim).is_forced());
        state.set_claim(claim, Claim::Ended { device, was_prepared, was_forced });
    }

    fn unprepare(&self, state: &mut State, claim: u8) {
        let Claim::Ended { device, was_prepared, .. } = state.claim(claim) else { return };
        let group = self.group(device);
        let is_held = self.is_held(state, device);
        if state.driver.record.contains_key(&claim) {
            if self.rule == Rule::RecordFirst {
                state.driver.record.remove(&claim);
            }
            if is_held && self.rule != Rule::UnprepareWithoutBarrier {
                state.driver.ended.insert(claim);
                let withheld = self.withhold(state, group);
                state.driver.ended.remove(&claim);
                if !withheld {
                    // The kubelet keeps the pod and calls again.
                    return;
                }
            }
            state.driver.record.remove(&claim);
            if is_held && self.offers(state, group) {
                state.violation = Some("a claim was given back whose held device is offered");
            }
        } else if is_held && was_prepared && self.offers(state, group) {
            state.violation = Some("a claim without a record was given back, and its held device is offered");
        }
        state.set_claim(claim, Claim::Gone);
    }

    /// Returns the state that follows if nothing happens except what the driver, the kubelet and the API server do by themselves.
    /// None if that never ends.
    pub(super) fn settled(&self, state: &State) -> Option<State> {
        let mut state = state.clone();
        self.play(&mut state, Move::ApiServerReturns);
        self.play(&mut state, Move::LateWriteArrives);
        for _ in 0..12 {
            let before = state.clone();
            for event in [
                Move::MonitorPass,
                Move::TimePasses,
                Move::WriteArrives,
                Move::Write,
                Move::WriteArrives,
                Move::SchedulerSees,
            ] {
                self.play(&mut state, event);
            }
            for claim in (0..).take(state.claims.len()) {
                if state.claim(claim).is_forced() {
                    self.play(&mut state, Move::End { claim, hangs: false });
                }
                self.play(&mut state, Move::Prepare(claim));
                self.play(&mut state, Move::Unprepare(claim));
            }
            if state == before {
                return Some(state);
            }
        }
        None
    }

    /// Returns whether the scheduler can allocate exactly the devices that a VM can open, and every claim whose device is free is
    /// prepared.
    pub(super) fn is_right(&self, state: &State) -> bool {
        let allocated: BTreeSet<u32> =
            state.allocated().into_iter().map(|device| self.group(device)).collect();
        let is_free = |device: &u8| {
            let device = *device;
            state.device(device).bound
                && !self.is_held(state, device)
                && !allocated.contains(&self.group(device))
        };
        let free: BTreeSet<u8> = state.all_devices().filter(is_free).collect();
        let is_left = |claim: &Claim| match *claim {
            Claim::Allocated(device) => state.device(device).bound && !self.is_held(state, device),
            Claim::Ended { .. } => true,
            _ => false,
        };
        self.allocatable(state, &state.seen) == free && !state.claims.iter().any(is_left)
    }
}
