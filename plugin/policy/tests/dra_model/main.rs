//! Checks every state that claims, VMs, a scheduler, an API server and the DRA driver can reach together, within bounds.
//!
//! The scheduler allocates by the slices that it has seen, which lag behind the stored ones. Two properties hold. No forbidden event
//! happens: no held device is prepared, one claim at most is prepared for a group, and no claim is refused or given back before the
//! API server stores that its held device must not be allocated. And from each state the scheduler comes to know the truth without
//! any further event: every device without a taint that no claim has can be opened.
//!
//! The decisions and the entries of slices are the driver's own functions. tests/dra/kubelet tests the driver as a process.

#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may take the time and fail loudly"
)]

mod driver;
mod moves;
mod state;
mod world;

use moves::Move;
use state::State;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::Instant;
use world::World;

/// How large a world is.
#[derive(Clone, Debug)]
struct Bounds {
    /// The group of each device.
    groups: Vec<u32>,
    /// How many claims come.
    claims: u8,
    /// How often the driver is killed.
    restarts: u8,
    /// Whether the API server is away at times, and writes that the driver gave up arrive late.
    outages: bool,
    /// Whether pods are deleted by force.
    forces: bool,
    /// Whether devices are unbound and bound. No world does so yet: a device that comes back held is offered for the settling time.
    binds: bool,
}

/// The rules that the driver follows: its own, or wrong ones that the model must catch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The driver's own rules.
    Right,
    /// A claim is given back although its group is held and no taint is stored.
    UnprepareWithoutBarrier,
    /// A claim is refused before the taint is stored.
    RefuseFirst,
    /// The record loses a claim before the taint is stored.
    RecordFirst,
    /// The record gets a claim after the answer.
    RecordAfterAnswer,
    /// The claim of a pod that was deleted by force ends for another claim, while the pod's containers still run.
    EndForced,
    /// What was stored before a write that was given up counts, although that write may still arrive.
    TrustAfterTimeout,
}

impl Model for World {
    type State = State;
    type Action = Move;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Move>) {
        // What follows a violation is of no interest.
        if state.violation.is_none() {
            self.moves(state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Move) -> Option<State> {
        let mut next = last.clone();
        self.play(&mut next, action);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no forbidden event happens", |_, state: &State| state.violation.is_none()),
            Property::always("what the scheduler can allocate can be opened", |world: &World, state| {
                world.settled(state).is_some_and(|settled| world.is_right(&settled))
            }),
        ]
    }
}

fn world(rule: Rule, bounds: Bounds) -> World {
    World { bounds, rule, now: Instant::now() }
}

/// One device and two claims. Every wrong rule fails in this world.
fn small() -> Bounds {
    Bounds { groups: vec![51], claims: 2, restarts: 1, outages: true, forces: true, binds: false }
}

/// Checks every state of the world, and prints how many there are.
fn check(bounds: Bounds) {
    let began = Instant::now();
    let shown = format!("{bounds:?}");
    let checker = world(Rule::Right, bounds).checker().threads(2).spawn_bfs().join();
    println!("{shown}: {} states, in {:?}", checker.unique_state_count(), began.elapsed());
    checker.assert_properties();
    assert!(checker.is_done());
}

#[test]
fn one_device_with_outages_and_a_driver_restart() {
    check(small());
}

#[test]
fn two_devices_of_one_group_and_two_claims() {
    check(Bounds { groups: vec![51, 51], restarts: 0, outages: false, ..small() });
}

#[test]
#[ignore = "minutes: cargo test --release -p vfio-plugin-policy --test dra_model -- --ignored"]
fn larger_worlds_of_claims() {
    check(Bounds { claims: 3, ..small() });
    check(Bounds { groups: vec![51, 51], ..small() });
    check(Bounds { groups: vec![51, 52], claims: 1, ..small() });
}

#[test]
fn wrong_rules_of_claims_are_caught() {
    for rule in [
        Rule::UnprepareWithoutBarrier,
        Rule::RefuseFirst,
        Rule::RecordFirst,
        Rule::RecordAfterAnswer,
        Rule::EndForced,
        Rule::TrustAfterTimeout,
    ] {
        let checker = world(rule, small()).checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
        let found = checker.discoveries();
        assert!(!found.is_empty(), "{rule:?} is not caught");
        for (name, path) in found {
            let violation = path.last_state().violation;
            println!("{rule:?}: not `{name}` ({violation:?}): {:?}", path.into_actions());
        }
    }
}
