//! Checks, for every combination of facts, what must hold whatever the table says.

use super::*;

#[test]
fn assigned_device_is_unhealthy_only_if_lost() {
    for facts in ALL.iter().filter(|facts| facts.is_assigned()) {
        assert_eq!(facts.decide().health != Health::Healthy, facts.is_lost(), "{facts:?}");
    }
}

#[test]
fn lost_device_is_unhealthy_whatever_else() {
    for facts in ALL.iter().filter(|facts| facts.is_lost()) {
        assert_eq!(facts.decide(), Decision::unhealthy(Reason::Lost), "{facts:?}");
    }
}

#[test]
fn assigned_held_device_has_a_warning_only_with_a_fault() {
    for facts in ALL.iter().filter(|facts| facts.is_assigned() && facts.is_held() && !facts.is_lost()) {
        let fault = facts.unbinding || facts.hardware.fatal > 0;
        assert_eq!(facts.decide().warning.is_some(), fault, "{facts:?}");
    }
}

#[test]
fn decision_has_a_reason_or_a_warning_never_both() {
    for facts in ALL.iter() {
        let decision = facts.decide();
        assert!(decision.warning.is_none() || decision.health == Health::Healthy, "{facts:?}");
        assert!(
            decision.health == Health::Healthy || decision.reason() == decision.health.reason(),
            "{facts:?}"
        );
        assert!(decision.reason().is_none_or(|reason| !reason.to_string().is_empty()), "{facts:?}");
    }
}

#[test]
fn policy_unhealthy_reports_every_held_device_at_once() {
    let held = |facts: &&Facts| facts.busy == Busy::Unhealthy && facts.is_held() && !facts.is_lost();
    for facts in ALL.iter().filter(held) {
        let Decision { health, decide_again, .. } = facts.decide();
        let reason = health.reason().unwrap();
        assert!(matches!(reason, Reason::Held { .. } | Reason::Unbinding { .. }), "{facts:?}");
        assert_eq!(decide_again, None, "{facts:?}");
    }
}

#[test]
fn policy_advertise_reports_no_device_for_being_held() {
    let advertised = |facts: &&Facts| facts.busy == Busy::Advertise && facts.is_held() && !facts.unbinding;
    for facts in ALL.iter().filter(advertised).filter(|facts| !facts.is_lost()) {
        assert_eq!(facts.decide(), Decision::healthy(), "{facts:?}");
    }
}

#[test]
fn other_policies_ignore_assignments() {
    for facts in ALL.iter().filter(|facts| facts.busy != Busy::Attributed) {
        let another = Facts { assignment: Assignment::Assigned, refused: false, ..facts.clone() };
        assert_eq!(facts.decide(), another.decide(), "{facts:?}");
    }
}

#[test]
fn device_without_a_group_is_unhealthy_unless_assigned() {
    for facts in ALL.iter().filter(|facts| facts.group.is_none() && !facts.is_lost()) {
        let Decision { health, decide_again, warning } = facts.decide();
        let reason = if facts.is_assigned() { warning.as_deref() } else { health.reason() };
        let expected = Reason::NoGroup { kind: vfio_probe::Kind::Pci };
        assert_eq!((reason, decide_again), (Some(&expected), None), "{facts:?}");
    }
}

#[test]
fn unassigned_held_device_is_unhealthy_once_settled_or_refused() {
    for facts in ALL.iter().filter(|facts| facts.busy == Busy::Attributed && facts.is_held()) {
        let Assignment::Unassigned { age, .. } = facts.assignment else { continue };
        let both = age.min(facts.group.unwrap().age);
        if both >= SETTLING || facts.refused {
            assert!(facts.decide().health != Health::Healthy, "{facts:?}");
        }
    }
}

#[test]
fn hold_changes_nothing_while_assignments_are_unknown() {
    let unknown =
        |facts: &&Facts| facts.busy == Busy::Attributed && matches!(facts.assignment, Assignment::Unknown);
    let held = |facts: &&Facts| facts.is_held() && !facts.refused && !facts.unbinding && !facts.is_lost();
    for facts in ALL.iter().filter(unknown).filter(held) {
        let expected = Decision { health: facts.as_reported(), ..Decision::healthy() };
        assert_eq!(facts.decide(), expected, "{facts:?}");
    }
}

#[test]
fn refusal_changes_nothing_for_a_device_that_is_not_held() {
    for facts in ALL.iter().filter(|facts| facts.refused && !facts.is_held()) {
        assert_eq!(facts.decide(), Facts { refused: false, ..facts.clone() }.decide(), "{facts:?}");
    }
}

#[test]
fn second_decision_after_the_first_report_is_the_same() {
    for facts in ALL.iter() {
        let first = facts.decide();
        let again = Facts { reported: first.health.reason().cloned(), ..facts.clone() }.decide();
        assert_eq!(first, again, "{facts:?}");
    }
}

#[test]
fn decision_changes_at_its_time_and_not_before() {
    for facts in ALL.iter() {
        let first = facts.decide();
        let Some(again) = first.decide_again else { continue };
        assert!(again > *NOW, "{facts:?}");
        assert_eq!(facts.decide_at(again.checked_sub(MOMENT).unwrap()), first, "{facts:?}");
        assert_eq!(facts.decide_at(again).decide_again, None, "{facts:?}");
    }
}

#[test]
fn decision_without_a_time_does_not_change_by_itself() {
    for facts in ALL.iter() {
        let first = facts.decide();
        if first.decide_again.is_none() {
            assert_eq!(facts.decide_at(*NOW + Duration::from_secs(3600)), first, "{facts:?}");
        }
    }
}
