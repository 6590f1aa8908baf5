//! Every combination of what a decision rests on, compared with the table written down a second time, and what has to hold
//! whatever the table says.

use super::*;
use crate::device::HardwareHealth;
use crate::testing::view;
use std::sync::LazyLock;
use vfio_probe::UnknownReason;
use vfio_probe::text::Text;

const SETTLING: Duration = Duration::from_secs(3);
const MOMENT: Duration = Duration::from_nanos(1);
/// For how long something is so: not at all, almost settled, just settled, and long.
const AGES: [Duration; 4] =
    [Duration::ZERO, SETTLING.saturating_sub(MOMENT), SETTLING, Duration::from_secs(60)];

/// What was told of one that has had errors.
const ERRORS: &str = "2 new fatal PCIe errors (AER)";

/// When it is asked. Later than now, for a machine that has just started has no long ago.
static NOW: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_secs(3600));
static ALL: LazyLock<Vec<Facts>> = LazyLock::new(all);

/// What a case is made of, with ages in place of times.
#[derive(Clone, Debug)]
struct Facts {
    busy: Busy,
    group: Option<Group>,
    unbinding: bool,
    visible: bool,
    whose: Whose,
    refused: bool,
    hardware: HardwareHealth,
    before: Option<Health>,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    occupancy: Occupancy,
    /// Its holder is known.
    found: bool,
    age: Duration,
    viable: bool,
}

#[derive(Clone, Copy, Debug)]
enum Whose {
    APods,
    Untold,
    Nobodys { age: Duration, peer: bool },
}

/// What a row of the table reports.
#[derive(Clone, Debug)]
enum Report {
    Healthy,
    Unhealthy(String),
    AsBefore,
    /// As before, until it is decided again.
    AsBeforeFor(Duration),
}
use Report::{AsBefore, AsBeforeFor, Healthy, Unhealthy};

impl Facts {
    fn decide(&self) -> Decision {
        self.decide_at(*NOW)
    }

    fn decide_at(&self, now: Instant) -> Decision {
        let ago = |age: Duration| NOW.checked_sub(age).unwrap();
        let group = self.group.unwrap_or(Group {
            occupancy: Occupancy::Free,
            found: false,
            age: Duration::ZERO,
            viable: true,
        });
        let viability = if group.viable {
            Viability::Viable
        } else {
            Viability::NotViable {
                member: Text::lossy(b"0000:3b:00.1"),
                driver: Text::lossy(b"snd_hda_intel"),
            }
        };
        let mut view = view("0000:3b:00.0", 51, group.occupancy, ago(group.age), viability, self.unbinding);
        view.hardware = self.hardware;
        view.group.as_mut().unwrap().holders.truncate(usize::from(group.found));
        if self.group.is_none() {
            (view.group, view.device.group) = (None, None);
        }
        let standing = match self.whose {
            Whose::APods => AssignmentState::Assigned,
            Whose::Untold => AssignmentState::Unknown,
            Whose::Nobodys { age, peer } => {
                let peer = peer.then(|| ("0000:3b:00.1".parse().unwrap(), "pod a/vm".to_owned()));
                AssignmentState::Unassigned { since: ago(age), peer }
            }
        };
        decide(&Case {
            busy: self.busy,
            view: &view,
            vfio_visible: self.visible,
            standing,
            refused: self.refused,
            before: self.before.as_ref(),
            settling: SETTLING,
            now,
        })
    }

    fn is_held(&self) -> bool {
        self.group.is_some_and(|group| group.occupancy == Occupancy::Held)
    }

    fn is_lost(&self) -> bool {
        self.hardware.lost
    }

    /// What was told before, if that was not of hardware that is well by now.
    fn as_before(&self) -> Health {
        match &self.before {
            Some(Health::Unhealthy(reason)) if reason == LOST => Health::Healthy,
            Some(Health::Unhealthy(reason)) if reason == ERRORS && self.hardware.fatal == 0 => {
                Health::Healthy
            }
            before => before.clone().unwrap_or(Health::Healthy),
        }
    }

    /// Whether whose it is counts, and it is a pod's.
    fn is_a_pods(&self) -> bool {
        self.busy == Busy::Attributed && matches!(self.whose, Whose::APods)
    }
}

/// All combinations.
fn all() -> Vec<Facts> {
    let mut whose = vec![Whose::APods, Whose::Untold];
    for age in AGES {
        whose.extend([false, true].map(|peer| Whose::Nobodys { age, peer }));
    }
    let mut groups = vec![None];
    for (occupancy, found) in [
        (Occupancy::Free, false),
        (Occupancy::Held, true),
        (Occupancy::Held, false),
        (Occupancy::Absent, false),
        (Occupancy::Unknown(UnknownReason::Denied), false),
        (Occupancy::Unknown(UnknownReason::TimedOut), false),
        (Occupancy::Unknown(UnknownReason::Errno(5)), false),
        (Occupancy::Unknown(UnknownReason::NotProbed), false),
    ] {
        for age in AGES {
            groups.extend([true, false].map(|viable| Some(Group { occupancy, found, age, viable })));
        }
    }
    // What was found of its hardware, and what was told of it before.
    let was = |reason: &str| Some(Health::Unhealthy(reason.to_owned()));
    let hardware = [
        (false, 0, None),
        (false, 0, Some(Health::Healthy)),
        (false, 0, was("was")),
        (false, 0, was(LOST)),
        (false, 0, was(ERRORS)),
        (false, 1, None),
        (false, 1, was(ERRORS)),
        (true, 2, Some(Health::Healthy)),
    ];
    let first = Facts {
        busy: Busy::Attributed,
        group: None,
        unbinding: false,
        visible: false,
        whose: Whose::APods,
        refused: false,
        hardware: HardwareHealth::default(),
        before: None,
    };
    let busy = [Busy::Attributed, Busy::Unhealthy, Busy::Advertise];
    let all = each(vec![first], &busy, |facts, it| facts.busy = it);
    let all = each(all, &groups, |facts, it| facts.group = it);
    let all = each(all, &[false, true], |facts, it| facts.unbinding = it);
    let all = each(all, &[false, true], |facts, it| facts.visible = it);
    let all = each(all, &whose, |facts, it| facts.whose = it);
    let all = each(all, &[false, true], |facts, it| facts.refused = it);
    each(all, &hardware, |facts, (lost, fatal, before)| {
        (facts.hardware, facts.before) = (HardwareHealth { lost, fatal }, before);
    })
}

/// All of them with each of these.
fn each<T: Clone>(all: Vec<Facts>, these: &[T], set: fn(&mut Facts, T)) -> Vec<Facts> {
    let with = |mut facts: Facts, it: &T| {
        set(&mut facts, it.clone());
        facts
    };
    all.into_iter().flat_map(|facts| these.iter().map(move |it| with(facts.clone(), it))).collect()
}

const ROWS: usize = 16;

/// The table, in its order: whether a row fits, and what it reports. It knows nothing of how `decide` goes about it.
/// What has not settled yet is a row of its own: as before.
fn table(facts: &Facts) -> [(bool, Report); ROWS] {
    let is = |state: fn(&Group) -> bool| facts.group.as_ref().is_some_and(state);
    let held = facts.is_held();
    let absent = facts.visible && is(|group| group.occupancy == Occupancy::Absent);
    let unknown = is(|group| matches!(group.occupancy, Occupancy::Unknown(_)));
    let attributed = facts.busy == Busy::Attributed;
    let (unowned, peer) = match facts.whose {
        Whose::Nobodys { age, peer } => (Some(age), peer),
        Whose::APods | Whose::Untold => (None, false),
    };
    // What is left of the settling time of a hold, and of a missing node.
    let age = facts.group.map_or(Duration::ZERO, |group| group.age);
    let hold_settles = unowned.map(|unowned| SETTLING.saturating_sub(unowned.min(age)));
    let node_settles = SETTLING.saturating_sub(age);
    let by = if is(|group| group.found) { "pid 7 (qemu)" } else { "a process that could not be found" };
    let unhealthy = |reason: &str| Unhealthy(reason.to_owned());
    let held_by = || Unhealthy(format!("held by {by}"));
    [
        (facts.is_lost(), unhealthy("does not answer: its configuration space reads all ones")),
        (facts.group.is_none(), unhealthy("no IOMMU group: is the IOMMU off?")),
        (facts.unbinding, Unhealthy(format!("unbinding, held by {by}"))),
        (attributed && peer, unhealthy("group 51 belongs to 0000:3b:00.1 (pod a/vm)")),
        (held && facts.busy == Busy::Unhealthy, held_by()),
        (held && facts.busy == Busy::Advertise, Healthy),
        (held && facts.is_a_pods(), Healthy),
        (held && facts.refused, held_by()),
        (held && hold_settles == Some(Duration::ZERO), held_by()),
        (held, hold_settles.map_or(AsBefore, AsBeforeFor)),
        (
            is(|group| !group.viable),
            unhealthy("group 51 is not viable: 0000:3b:00.1 is bound to snd_hda_intel"),
        ),
        (facts.hardware.fatal > 0, unhealthy("1 new fatal PCIe error (AER)")),
        (absent && node_settles.is_zero(), unhealthy("no device node /dev/vfio/51")),
        (absent, AsBeforeFor(node_settles)),
        (unknown, AsBefore),
        (true, Healthy),
    ]
}

/// The place of the first row that fits, and the decision that it makes.
fn by_the_table(facts: &Facts) -> (usize, Decision) {
    let first = |(_, (fits, _)): &(usize, (bool, Report))| *fits;
    let (place, (_, report)) = table(facts).into_iter().enumerate().find(first).unwrap();
    // What was wrong with a device before it was a pod's is over.
    let before = if facts.is_a_pods() { Health::Healthy } else { facts.as_before() };
    let (health, again) = match report {
        Healthy => (Health::Healthy, None),
        Unhealthy(reason) => (Health::Unhealthy(reason), None),
        AsBefore => (before, None),
        AsBeforeFor(left) => (before, Some(*NOW + left)),
    };
    // The rule above the table: a pod's device is warned about, unless it is lost; of errors also while its machine runs.
    match health {
        Health::Unhealthy(reason) if facts.is_a_pods() && !facts.is_lost() => {
            (place, Decision { health: Health::Healthy, again, warning: Some(reason) })
        }
        Health::Healthy if facts.is_a_pods() && facts.hardware.fatal > 0 => {
            let warning = Some("1 new fatal PCIe error (AER)".to_owned());
            (place, Decision { health, again, warning })
        }
        health => (place, Decision { health, again, warning: None }),
    }
}

#[test]
fn every_combination_is_decided_by_the_first_row_that_fits() {
    let mut decided = [0; ROWS];
    for facts in ALL.iter() {
        let (place, expected) = by_the_table(facts);
        assert_eq!(facts.decide(), expected, "row {place}: {facts:?}");
        decided[place] += 1;
    }
    assert_eq!(ALL.len(), 124_800);
    assert!(!decided.contains(&0), "a row decides nothing: {decided:?}");
}

#[test]
fn a_pods_device_is_unhealthy_if_it_is_lost_and_never_else() {
    for facts in ALL.iter().filter(|facts| facts.is_a_pods()) {
        assert_eq!(facts.decide().health != Health::Healthy, facts.is_lost(), "{facts:?}");
    }
}

#[test]
fn what_is_lost_is_unhealthy_whatever_else() {
    for facts in ALL.iter().filter(|facts| facts.is_lost()) {
        let lost = Health::Unhealthy(LOST.to_owned());
        assert_eq!(facts.decide(), Decision { health: lost, again: None, warning: None }, "{facts:?}");
    }
}

#[test]
fn a_pods_device_that_is_held_is_warned_of_only_while_it_is_unbound_or_had_errors() {
    for facts in ALL.iter().filter(|facts| facts.is_a_pods() && facts.is_held() && !facts.is_lost()) {
        let wrong = facts.unbinding || facts.hardware.fatal > 0;
        assert_eq!(facts.decide().warning.is_some(), wrong, "{facts:?}");
    }
}

#[test]
fn every_unhealthy_and_every_warning_says_why_and_only_one_of_them_does() {
    for facts in ALL.iter() {
        let Decision { health, warning, .. } = facts.decide();
        assert!(health.reason().is_none_or(|reason| !reason.is_empty()), "{facts:?}");
        assert!(warning.as_ref().is_none_or(|warning| !warning.is_empty()), "{facts:?}");
        assert!(warning.is_none() || health == Health::Healthy, "{facts:?}");
    }
}

#[test]
fn with_unhealthy_every_held_device_is_unhealthy_at_once() {
    let held = |facts: &&Facts| facts.busy == Busy::Unhealthy && facts.is_held() && !facts.is_lost();
    for facts in ALL.iter().filter(held) {
        let Decision { health, again, .. } = facts.decide();
        assert!(health.reason().unwrap().contains("held by "), "{facts:?}");
        assert_eq!(again, None, "{facts:?}");
    }
}

#[test]
fn with_advertise_no_device_is_unhealthy_for_being_held() {
    let advertised = |facts: &&Facts| facts.busy == Busy::Advertise && facts.is_held() && !facts.unbinding;
    for facts in ALL.iter().filter(advertised).filter(|facts| !facts.is_lost()) {
        assert_eq!(
            facts.decide(),
            Decision { health: Health::Healthy, again: None, warning: None },
            "{facts:?}"
        );
    }
}

#[test]
fn other_policies_do_not_ask_whose_a_device_is() {
    for facts in ALL.iter().filter(|facts| facts.busy != Busy::Attributed) {
        let another = Facts { whose: Whose::APods, refused: false, ..facts.clone() };
        assert_eq!(facts.decide(), another.decide(), "{facts:?}");
    }
}

#[test]
fn without_a_group_it_is_unhealthy_unless_it_is_lost() {
    for facts in ALL.iter().filter(|facts| facts.group.is_none() && !facts.is_lost()) {
        let Decision { health, again, warning } = facts.decide();
        let why = if facts.is_a_pods() { warning.as_deref() } else { health.reason() };
        assert_eq!((why, again), (Some("no IOMMU group: is the IOMMU off?"), None), "{facts:?}");
    }
}

#[test]
fn held_and_nobodys_is_unhealthy_once_settled_or_refused() {
    for facts in ALL.iter().filter(|facts| facts.busy == Busy::Attributed && facts.is_held()) {
        let Whose::Nobodys { age, .. } = facts.whose else { continue };
        let both = age.min(facts.group.unwrap().age);
        if both >= SETTLING || facts.refused {
            assert!(facts.decide().health != Health::Healthy, "{facts:?}");
        }
    }
}

#[test]
fn while_the_kubelet_does_not_tell_being_held_changes_nothing() {
    let untold = |facts: &&Facts| facts.busy == Busy::Attributed && matches!(facts.whose, Whose::Untold);
    let held = |facts: &&Facts| facts.is_held() && !facts.refused && !facts.unbinding && !facts.is_lost();
    for facts in ALL.iter().filter(untold).filter(held) {
        assert_eq!(
            facts.decide(),
            Decision { health: facts.as_before(), again: None, warning: None },
            "{facts:?}"
        );
    }
}

#[test]
fn a_refusal_says_nothing_of_a_device_that_is_not_held() {
    for facts in ALL.iter().filter(|facts| facts.refused && !facts.is_held()) {
        assert_eq!(facts.decide(), Facts { refused: false, ..facts.clone() }.decide(), "{facts:?}");
    }
}

#[test]
fn deciding_again_with_what_was_told_changes_nothing() {
    for facts in ALL.iter() {
        let first = facts.decide();
        let again = Facts { before: Some(first.health.clone()), ..facts.clone() }.decide();
        assert_eq!(first, again, "{facts:?}");
    }
}

#[test]
fn what_is_due_later_is_decided_then_and_not_before() {
    for facts in ALL.iter() {
        let first = facts.decide();
        let Some(again) = first.again else { continue };
        assert!(again > *NOW, "{facts:?}");
        assert_eq!(facts.decide_at(again.checked_sub(MOMENT).unwrap()), first, "{facts:?}");
        assert_eq!(facts.decide_at(again).again, None, "{facts:?}");
    }
}

#[test]
fn what_is_not_due_later_stays_so_if_nothing_changes() {
    for facts in ALL.iter() {
        let first = facts.decide();
        if first.again.is_none() {
            assert_eq!(facts.decide_at(*NOW + Duration::from_secs(3600)), first, "{facts:?}");
        }
    }
}
