//! Checks every state that pods, their VMs, a kubelet and the plugin can reach together, within bounds.
//!
//! Pods have one container each, and the kubelet always responds. Two properties hold: no forbidden event happens, and from each
//! state the kubelet comes to know the truth, without any further event.
//!
//! The kubelet and the kernel are models here; the decisions are the plugin's own functions. tests/chaos tests the plugin as a
//! process.

#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may take the time and fail loudly"
)]

mod kubelet;
mod moves;
mod node;
mod plugin;
mod world;

use moves::Move;
use node::State;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::Instant;
use vfio_plugin_policy::pools::terms::Busy;
use world::World;

/// How large a world is.
#[derive(Clone, Debug)]
struct Bounds {
    /// The group of each device.
    groups: Vec<u32>,
    /// How many pods come.
    pods: u8,
    /// How often the kubelet restarts.
    kubelet_restarts: u8,
    /// Whether devices are unbound and bound.
    binds: bool,
}

/// The rules that the plugin follows: its own, or wrong ones that the model must catch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The plugin's own rules.
    Right,
    /// Another policy for held devices.
    Policy(Busy),
    /// The plugin trusts the lists of a kubelet that has just started.
    TrustYoungKubelet,
    /// Allocate grants a held device to any pod that requests what was allocated before.
    GrantAgain,
    /// The plugin never sends an unchanged list to have the kubelet write its checkpoint.
    NeverResend,
}

/// Returns the id of a device.
fn id(device: u8) -> String {
    format!("0000:{:02x}:00.0", device + 1)
}

/// Returns the uid of a pod.
fn uid(pod: u8) -> String {
    format!("uid-{pod}")
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
            Property::always("the kubelet comes to believe what is true", |world: &World, state| {
                world.settled(state).is_some_and(|settled| world.kubelet_is_right(&settled))
            }),
        ]
    }
}

fn world(rule: Rule, bounds: Bounds) -> World {
    World { bounds, rule, now: Instant::now() }
}

/// One device, two pods, and a kubelet that restarts once. Every wrong rule fails in this world.
fn small() -> Bounds {
    Bounds { groups: vec![51], pods: 2, kubelet_restarts: 1, binds: false }
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
fn one_device_and_a_kubelet_that_restarts() {
    check(small());
}

#[test]
fn one_device_that_is_unbound_and_bound() {
    check(Bounds { kubelet_restarts: 0, binds: true, ..small() });
}

#[test]
fn two_devices_of_one_group() {
    check(Bounds { groups: vec![51, 51], kubelet_restarts: 0, ..small() });
}

#[test]
fn two_groups() {
    check(Bounds { groups: vec![51, 52], pods: 1, kubelet_restarts: 0, ..small() });
}

#[test]
#[ignore = "minutes: cargo test --release -p vfio-plugin-policy --test model -- --ignored"]
fn larger_worlds() {
    check(Bounds { pods: 3, binds: true, ..small() });
    check(Bounds { groups: vec![51, 52], kubelet_restarts: 0, ..small() });
    check(Bounds { groups: vec![51, 52], pods: 1, ..small() });
    check(Bounds { groups: vec![51, 51], ..small() });
}

#[test]
#[ignore = "about ten minutes and 10 GB of memory"]
fn the_largest_world() {
    check(Bounds { groups: vec![51, 51], kubelet_restarts: 0, binds: true, ..small() });
}

#[test]
fn wrong_rules_are_caught() {
    for rule in [
        Rule::Policy(Busy::Unhealthy),
        Rule::Policy(Busy::Advertise),
        Rule::TrustYoungKubelet,
        Rule::GrantAgain,
        Rule::NeverResend,
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
