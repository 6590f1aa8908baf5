//! Every state that pods of one container, machines, a kubelet that answers and the plugin's own decisions can reach together,
//! within bounds: in each, once it has settled, the kubelet believes what is true, and nothing that must never happen has.
//!
//! The kubelet and the kernel are models here; the decisions are the plugin's own functions. What the real kubelet does is
//! tested in tests/chaos.

#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may take the time and fail loudly"
)]

mod node;
mod plugin;

use node::{Move, State, World};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::Instant;
use vfio_plugin_policy::pools::terms::Busy;

/// How large a world is.
#[derive(Clone, Debug)]
struct Bounds {
    /// The group of each device.
    groups: Vec<u32>,
    pods: u8,
    kubelet_restarts: u8,
    /// Whether devices are unbound and bound.
    binds: bool,
}

/// The plugin's rules, or wrong ones, which must be caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    Right,
    /// Another policy.
    Policy(Busy),
    /// A kubelet that has just started is believed.
    ListsCountAtOnce,
    /// A held device is given to whoever asks for what was granted before.
    GrantedAgain,
    /// No list goes out to have the checkpoint written anew.
    NeverSentAgain,
}

fn id(device: u8) -> String {
    format!("0000:{:02x}:00.0", device + 1)
}

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
        // What follows from what must not happen is of no interest.
        if state.broken.is_none() {
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
            Property::always("nothing happens that must not", |_, state: &State| state.broken.is_none()),
            Property::always(
                "it settles, and then the kubelet believes what is true",
                |world: &World, state| {
                    world.settled(state).is_some_and(|settled| world.believes_what_is_true(&settled))
                },
            ),
        ]
    }
}

fn world(rule: Rule, bounds: Bounds) -> World {
    World { bounds, rule, now: Instant::now() }
}

/// One device, one after the other pod, a kubelet that restarts: what every rule below has to do with.
fn small() -> Bounds {
    Bounds { groups: vec![51], pods: 2, kubelet_restarts: 1, binds: false }
}

fn prove(bounds: Bounds) {
    let began = Instant::now();
    let shown = format!("{bounds:?}");
    let checker = world(Rule::Right, bounds).checker().threads(2).spawn_bfs().join();
    println!("{shown}: {} states, in {:?}", checker.unique_state_count(), began.elapsed());
    checker.assert_properties();
    assert!(checker.is_done());
}

#[test]
fn a_device_pods_and_a_kubelet_that_restarts() {
    prove(small());
}

#[test]
fn a_device_that_is_unbound_and_bound() {
    prove(Bounds { kubelet_restarts: 0, binds: true, ..small() });
}

#[test]
fn two_devices_of_one_group() {
    prove(Bounds { groups: vec![51, 51], kubelet_restarts: 0, ..small() });
}

#[test]
fn two_groups() {
    prove(Bounds { groups: vec![51, 52], pods: 1, kubelet_restarts: 0, ..small() });
}

#[test]
#[ignore = "minutes: cargo test --release -p vfio-device-plugin model -- --ignored"]
fn larger_worlds() {
    prove(Bounds { pods: 3, binds: true, ..small() });
    prove(Bounds { groups: vec![51, 52], kubelet_restarts: 0, ..small() });
    prove(Bounds { groups: vec![51, 52], pods: 1, ..small() });
    prove(Bounds { groups: vec![51, 51], ..small() });
}

#[test]
#[ignore = "some ten minutes and 10 GB"]
fn the_largest_world() {
    prove(Bounds { groups: vec![51, 51], kubelet_restarts: 0, binds: true, ..small() });
}

#[test]
fn wrong_rules_are_caught() {
    for rule in [
        Rule::Policy(Busy::Unhealthy),
        Rule::Policy(Busy::Advertise),
        Rule::ListsCountAtOnce,
        Rule::GrantedAgain,
        Rule::NeverSentAgain,
    ] {
        let checker = world(rule, small()).checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
        let found = checker.discoveries();
        assert!(!found.is_empty(), "{rule:?} is not caught");
        for (name, path) in found {
            let broken = path.last_state().broken;
            println!("{rule:?}: not `{name}` ({broken:?}): {:?}", path.into_actions());
        }
    }
}
