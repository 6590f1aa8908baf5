//! One test per row of the table, and properties over all combinations.

use super::*;
use crate::snapshot::tests::view;
use proptest::prelude::*;
use vfio_probe::Why;
use vfio_probe::text::Text;

const SETTLING: Duration = Duration::from_secs(3);
const LONG_AGO: Duration = Duration::from_secs(60);

/// What a case is made of, so that a test says only what matters to it.
#[derive(Clone, Debug)]
struct Facts {
    busy: Busy,
    unbinding: bool,
    occupancy: Occupancy,
    /// Since when it is so.
    for_long: bool,
    viable: bool,
    visible: bool,
    standing: Standing,
    refused: bool,
    before: Option<Health>,
    /// When the story begins, and when it is asked.
    begin: Instant,
    now: Instant,
}

impl Facts {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            busy: Busy::Attributed,
            unbinding: false,
            occupancy: Occupancy::Free,
            for_long: true,
            viable: true,
            visible: true,
            standing: Standing::Unowned { since: now.checked_sub(LONG_AGO).unwrap(), mate: None },
            refused: false,
            before: None,
            begin: now,
            now,
        }
    }

    fn owned() -> Self {
        Self { standing: Standing::Owned, ..Self::new() }
    }

    fn mate() -> Self {
        let mate = Some(("0000:3b:00.1".parse().unwrap(), "pod a/vm".to_owned()));
        let now = Instant::now();
        Self { standing: Standing::Unowned { since: now, mate }, begin: now, now, ..Self::new() }
    }

    fn decide(&self) -> Decision {
        let not_viable = Viability::NotViable {
            member: Text::lossy(b"0000:3b:00.1"),
            driver: Text::lossy(b"snd_hda_intel"),
        };
        let viability = if self.viable { Viability::Viable } else { not_viable };
        let since = if self.for_long { self.begin.checked_sub(LONG_AGO).unwrap() } else { self.begin };
        let view = view("0000:3b:00.0", 51, self.occupancy, since, viability, self.unbinding);
        decide(&Case {
            busy: self.busy,
            view: &view,
            vfio_visible: self.visible,
            standing: self.standing.clone(),
            refused: self.refused,
            before: self.before.as_ref(),
            settling: SETTLING,
            now: self.now,
        })
    }

    /// The reason, or nothing for Healthy.
    fn reason(&self) -> String {
        self.decide().health.reason().unwrap_or_default().to_owned()
    }
}

const HELD: &str = "held by pid 7 (qemu)";

#[test]
fn being_unbound_while_held_is_unhealthy() {
    let facts = Facts { unbinding: true, occupancy: Occupancy::Held, ..Facts::new() };
    for busy in [Busy::Attributed, Busy::Unhealthy, Busy::Advertise] {
        assert_eq!(Facts { busy, ..facts.clone() }.reason(), format!("unbinding, {HELD}"));
    }
    let owned = Facts { standing: Standing::Owned, ..facts };
    assert_eq!(owned.reason(), "");
    assert_eq!(owned.decide().warning.unwrap(), format!("unbinding, {HELD}"));
}

#[test]
fn a_group_that_belongs_to_a_pod_is_unhealthy_for_others() {
    for occupancy in [Occupancy::Free, Occupancy::Held, Occupancy::Unknown(Why::Denied)] {
        let facts = Facts { occupancy, ..Facts::mate() };
        assert_eq!(facts.reason(), "group 51 belongs to 0000:3b:00.1 (pod a/vm)");
        assert_eq!(Facts { busy: Busy::Advertise, ..facts }.reason(), "");
    }
}

#[test]
fn held_and_nobodys_is_unhealthy_once_settled() {
    let facts = Facts { occupancy: Occupancy::Held, ..Facts::new() };
    assert_eq!(facts.reason(), HELD);
    let just_held = Facts { for_long: false, ..facts.clone() };
    assert_eq!(just_held.reason(), "");
    assert_eq!(just_held.decide().again, Some(just_held.now + SETTLING));
    let since = facts.now;
    let just_left = Facts { standing: Standing::Unowned { since, mate: None }, ..facts.clone() };
    assert_eq!(just_left.reason(), "", "its pod has just ended, the machine closes");
    assert_eq!(just_left.decide().again, Some(since + SETTLING));
    let settled = Facts { now: since + SETTLING, ..just_left };
    assert_eq!(settled.reason(), HELD, "exactly at the settling time");
    let refused = Facts { refused: true, ..just_held };
    assert_eq!(refused.reason(), HELD, "a refusal does not settle");
    assert_eq!(Facts { busy: Busy::Unhealthy, for_long: false, ..facts.clone() }.reason(), HELD);
    assert_eq!(Facts { busy: Busy::Advertise, ..facts.clone() }.reason(), "");
    assert_eq!(Facts { viable: false, ..facts }.reason(), HELD, "held proves that it was viable");
}

#[test]
fn held_by_its_pod_is_healthy() {
    let facts = Facts { occupancy: Occupancy::Held, ..Facts::owned() };
    let healthy = Decision { health: Health::Healthy, again: None, warning: None };
    assert_eq!(facts.decide(), healthy);
    assert_eq!(Facts { busy: Busy::Unhealthy, ..facts }.reason(), HELD);
}

#[test]
fn while_the_kubelet_does_not_tell_held_changes_nothing() {
    let facts = Facts { occupancy: Occupancy::Held, standing: Standing::Untold, ..Facts::new() };
    assert_eq!(facts.reason(), "");
    let before = Some(Health::Unhealthy("was".into()));
    assert_eq!(Facts { before, ..facts.clone() }.reason(), "was");
    assert_eq!(Facts { refused: true, ..facts }.reason(), HELD);
}

#[test]
fn a_group_that_is_not_viable_is_unhealthy() {
    let facts = Facts { viable: false, ..Facts::new() };
    let reason = "group 51 is not viable: 0000:3b:00.1 is bound to snd_hda_intel";
    for busy in [Busy::Attributed, Busy::Unhealthy, Busy::Advertise] {
        assert_eq!(Facts { busy, ..facts.clone() }.reason(), reason);
    }
    let owned = Facts { standing: Standing::Owned, ..facts };
    assert_eq!((owned.reason(), owned.decide().warning), (String::new(), Some(reason.to_owned())));
}

#[test]
fn without_a_node_it_is_unhealthy_once_settled() {
    let facts = Facts { occupancy: Occupancy::Absent, ..Facts::new() };
    assert_eq!(facts.reason(), "no device node /dev/vfio/51");
    assert_eq!(Facts { visible: false, ..facts.clone() }.reason(), "");
    let fresh = Facts { for_long: false, ..facts };
    assert_eq!((fresh.reason(), fresh.decide().again), (String::new(), Some(fresh.now + SETTLING)));
}

#[test]
fn unknown_changes_nothing() {
    let facts = Facts { occupancy: Occupancy::Unknown(Why::Denied), ..Facts::new() };
    assert_eq!(facts.reason(), "");
    let before = Some(Health::Unhealthy("was".into()));
    assert_eq!(Facts { before, ..facts }.reason(), "was");
}

#[test]
fn free_is_healthy_whatever_was_before() {
    let before = Some(Health::Unhealthy("was".into()));
    assert_eq!(Facts { before, ..Facts::new() }.reason(), "");
}

prop_compose! {
    fn any_facts()(
        busy in prop::sample::select(vec![Busy::Attributed, Busy::Unhealthy, Busy::Advertise]),
        unbinding: bool, for_long: bool, viable: bool, visible: bool, refused: bool,
        occupancy in prop::sample::select(vec![
            Occupancy::Free, Occupancy::Held, Occupancy::Absent, Occupancy::Unknown(Why::Late),
        ]),
        standing in 0..4, before in 0..3,
    ) -> Facts {
        let facts = Facts::new();
        let standing = match standing {
            0 => Standing::Owned,
            1 => Standing::Untold,
            2 => Facts::mate().standing,
            _ => facts.standing.clone(),
        };
        let before = match before {
            0 => None,
            1 => Some(Health::Healthy),
            _ => Some(Health::Unhealthy("was".into())),
        };
        Facts { busy, unbinding, occupancy, for_long, viable, visible, standing, refused, before, ..facts }
    }
}

proptest! {
    #[test]
    fn a_pods_device_is_never_unhealthy(facts in any_facts()) {
        let facts = Facts { busy: Busy::Attributed, standing: Standing::Owned, ..facts };
        prop_assert_eq!(facts.decide().health, Health::Healthy);
    }

    #[test]
    fn every_unhealthy_has_a_reason(facts in any_facts()) {
        if let Health::Unhealthy(reason) = facts.decide().health {
            prop_assert!(!reason.is_empty());
        }
    }

    #[test]
    fn a_settled_foreign_hold_is_always_unhealthy(facts in any_facts()) {
        let standing = Facts::new().standing;
        let busy = Busy::Attributed;
        let facts = Facts { busy, standing, occupancy: Occupancy::Held, for_long: true, ..facts };
        prop_assert!(facts.decide().health != Health::Healthy);
    }

    #[test]
    fn deciding_again_with_what_was_told_changes_nothing(facts in any_facts()) {
        let first = facts.decide();
        let again = Facts { before: Some(first.health.clone()), ..facts }.decide();
        prop_assert_eq!(first, again);
    }

    #[test]
    fn what_is_due_later_is_decided_then(facts in any_facts()) {
        if let Some(again) = facts.decide().again {
            prop_assert!(again > facts.now);
            let later = Facts { now: again, ..facts }.decide();
            prop_assert_eq!(later.again, None);
        }
    }
}
