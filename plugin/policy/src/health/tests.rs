//! Compares every combination of facts with a second statement of the table. [`rules`] checks what must hold whatever the
//! table says.

mod rules;

use super::*;
use crate::device::HardwareHealth;
use crate::testing::device_state;
use std::sync::LazyLock;
use vfio_probe::text::Text;
use vfio_probe::{GroupId, UnknownReason, Viability};

const SETTLING: Duration = Duration::from_secs(3);
const MOMENT: Duration = Duration::from_nanos(1);
/// How long a state lasts: not at all, almost settled, just settled, and long.
const AGES: [Duration; 4] =
    [Duration::ZERO, SETTLING.saturating_sub(MOMENT), SETTLING, Duration::from_secs(60)];

/// What was reported of a device that had errors.
const ERRORS: Reason = Reason::FatalErrors { count: 2 };

/// The time of the decision. It is in the future, because shortly after boot there is no Instant a minute ago.
static NOW: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_secs(3600));
static ALL: LazyLock<Vec<Facts>> = LazyLock::new(all);

/// One combination, with ages instead of times.
#[derive(Clone, Debug)]
struct Facts {
    busy: Busy,
    group: Option<Group>,
    unbinding: bool,
    node_counts: bool,
    assignment: Assignment,
    refused: bool,
    hardware: HardwareHealth,
    /// None for Healthy and before the first report.
    reported: Option<Reason>,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    occupancy: Occupancy,
    /// Whether the scan found the holder.
    found: bool,
    age: Duration,
    viable: bool,
}

#[derive(Clone, Copy, Debug)]
enum Assignment {
    Assigned,
    Unknown,
    Unassigned { age: Duration, peer: bool },
}

/// What a row of the table reports.
#[derive(Clone, Debug)]
enum Report {
    Healthy,
    Unhealthy(Reason),
    AsReported,
    /// As reported before, until the decision after this time.
    AsReportedFor(Duration),
}
use Report::{AsReported, AsReportedFor, Healthy, Unhealthy};

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
        let mut device =
            device_state("0000:3b:00.0", 51, group.occupancy, ago(group.age), viability, self.unbinding);
        device.hardware = self.hardware;
        device.group.as_mut().unwrap().holders.truncate(usize::from(group.found));
        if self.group.is_none() {
            (device.group, device.device.group) = (None, None);
        }
        let assignment = match self.assignment {
            Assignment::Assigned => AssignmentState::Assigned,
            Assignment::Unknown => AssignmentState::Unknown,
            Assignment::Unassigned { age, peer } => {
                let peer = peer.then(|| ("0000:3b:00.1".parse().unwrap(), "pod a/vm".to_owned()));
                AssignmentState::Unassigned { since: ago(age), peer }
            }
        };
        decide(&Case {
            busy: self.busy,
            device: &device,
            node_counts: self.node_counts,
            assignment,
            stale_answer: None,
            refused: self.refused,
            reported: self.reported.as_ref(),
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

    /// The previous report, unless it was about hardware that is well by now.
    fn as_reported(&self) -> Health {
        match &self.reported {
            None | Some(Reason::Lost) => Health::Healthy,
            Some(Reason::FatalErrors { .. }) if self.hardware.fatal == 0 => Health::Healthy,
            Some(reason) => Health::Unhealthy(Box::new(reason.clone())),
        }
    }

    /// Whether the policy respects assignments, and the device is assigned.
    fn is_assigned(&self) -> bool {
        self.busy == Busy::Attributed && matches!(self.assignment, Assignment::Assigned)
    }
}

/// Returns all combinations.
fn all() -> Vec<Facts> {
    let mut assignments = vec![Assignment::Assigned, Assignment::Unknown];
    for age in AGES {
        assignments.extend([false, true].map(|peer| Assignment::Unassigned { age, peer }));
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
    // The state of the hardware, and the previous report. A process chose `AER` as its command.
    let command = Text::lossy(b"AER");
    let held = Reason::Held { holders: vec![HolderName { pid: 8, command, pod_uid: None }] };
    let hardware = [
        (false, 0, None),
        (false, 0, Some(Reason::NoDeviceNode { path: "/dev/vfio/51".to_owned() })),
        (false, 0, Some(held)),
        (false, 0, Some(Reason::Lost)),
        (false, 0, Some(ERRORS)),
        (false, 1, None),
        (false, 1, Some(ERRORS)),
        (true, 2, None),
    ];
    let first = Facts {
        busy: Busy::Attributed,
        group: None,
        unbinding: false,
        node_counts: false,
        assignment: Assignment::Assigned,
        refused: false,
        hardware: HardwareHealth::default(),
        reported: None,
    };
    let busy = [Busy::Attributed, Busy::Unhealthy, Busy::Advertise];
    let all = each(vec![first], &busy, |facts, value| facts.busy = value);
    let all = each(all, &groups, |facts, value| facts.group = value);
    let all = each(all, &[false, true], |facts, value| facts.unbinding = value);
    let all = each(all, &[false, true], |facts, value| facts.node_counts = value);
    let all = each(all, &assignments, |facts, value| facts.assignment = value);
    let all = each(all, &[false, true], |facts, value| facts.refused = value);
    each(all, &hardware, |facts, (lost, fatal, reported)| {
        (facts.hardware, facts.reported) = (HardwareHealth { lost, fatal, bar_user: None }, reported);
    })
}

/// Returns each combination with each of the values.
fn each<T: Clone>(all: Vec<Facts>, values: &[T], set: fn(&mut Facts, T)) -> Vec<Facts> {
    let with = |mut facts: Facts, value: &T| {
        set(&mut facts, value.clone());
        facts
    };
    all.into_iter().flat_map(|facts| values.iter().map(move |value| with(facts.clone(), value))).collect()
}

const ROWS: usize = 16;

/// The table in its order: whether a row fits, and what it reports. It is written independently of `decide`. What has not
/// settled yet is a row of its own: as reported before.
fn table(facts: &Facts) -> [(bool, Report); ROWS] {
    let is = |state: fn(&Group) -> bool| facts.group.as_ref().is_some_and(state);
    let held = facts.is_held();
    let absent = facts.node_counts && is(|group| group.occupancy == Occupancy::Absent);
    let unknown = is(|group| matches!(group.occupancy, Occupancy::Unknown(_)));
    let attributed = facts.busy == Busy::Attributed;
    let (unassigned, peer) = match facts.assignment {
        Assignment::Unassigned { age, peer } => (Some(age), peer),
        Assignment::Assigned | Assignment::Unknown => (None, false),
    };
    // The rest of the settling time of a hold, and of a missing node.
    let age = facts.group.map_or(Duration::ZERO, |group| group.age);
    let hold_settles = unassigned.map(|unassigned| SETTLING.saturating_sub(unassigned.min(age)));
    let node_settles = SETTLING.saturating_sub(age);
    let qemu = HolderName { pid: 7, command: Text::lossy(b"qemu"), pod_uid: None };
    let holders = || if is(|group| group.found) { vec![qemu] } else { Vec::new() };
    let held_by = || Unhealthy(Reason::Held { holders: holders() });
    let group = GroupId(51);
    let offender = Offender { device: Text::lossy(b"0000:3b:00.1"), driver: Text::lossy(b"snd_hda_intel") };
    let assigned_peer =
        Reason::GroupPeer { group, peer: "0000:3b:00.1".parse().unwrap(), pod: "pod a/vm".to_owned() };
    [
        (facts.is_lost(), Unhealthy(Reason::Lost)),
        (facts.group.is_none(), Unhealthy(Reason::NoGroup { kind: vfio_probe::Kind::Pci })),
        (facts.unbinding, Unhealthy(Reason::Unbinding { holders: holders() })),
        (attributed && peer, Unhealthy(assigned_peer)),
        (held && facts.busy == Busy::Unhealthy, held_by()),
        (held && facts.busy == Busy::Advertise, Healthy),
        (held && facts.is_assigned(), Healthy),
        (held && facts.refused, held_by()),
        (held && hold_settles == Some(Duration::ZERO), held_by()),
        (held, hold_settles.map_or(AsReported, AsReportedFor)),
        (is(|group| !group.viable), Unhealthy(Reason::NotViable { group, offenders: vec![offender] })),
        (facts.hardware.fatal > 0, Unhealthy(Reason::FatalErrors { count: 1 })),
        (
            absent && node_settles.is_zero(),
            Unhealthy(Reason::NoDeviceNode { path: "/dev/vfio/51".to_owned() }),
        ),
        (absent, AsReportedFor(node_settles)),
        (unknown, AsReported),
        (true, Healthy),
    ]
}

/// Returns the place of the first row that fits, and its decision.
fn by_the_table(facts: &Facts) -> (usize, Decision) {
    let first = |(_, (fits, _)): &(usize, (bool, Report))| *fits;
    let (place, (_, report)) = table(facts).into_iter().enumerate().find(first).unwrap();
    // A fault from before the assignment is over.
    let reported = if facts.is_assigned() { Health::Healthy } else { facts.as_reported() };
    let (health, decide_again) = match report {
        Healthy => (Health::Healthy, None),
        Unhealthy(reason) => (Health::Unhealthy(Box::new(reason)), None),
        AsReported => (reported, None),
        AsReportedFor(left) => (reported, Some(*NOW + left)),
    };
    // The rule above the table: an assigned device gets a warning instead, unless it is lost. Errors are a warning also while
    // its VM runs.
    match health {
        Health::Unhealthy(reason) if facts.is_assigned() && !facts.is_lost() => {
            (place, Decision { health: Health::Healthy, decide_again, warning: Some(reason) })
        }
        Health::Healthy if facts.is_assigned() && facts.hardware.fatal > 0 => (
            place,
            Decision { health, decide_again, warning: Some(Box::new(Reason::FatalErrors { count: 1 })) },
        ),
        health => (place, Decision { health, decide_again, warning: None }),
    }
}

#[test]
fn claimed_device_found_held_is_withheld_by_every_policy() {
    for busy in [Busy::Attributed, Busy::Unhealthy, Busy::Advertise] {
        let decided = |offer, assignment, refused| {
            let mut device =
                device_state("0000:3b:00.0", 51, Occupancy::Held, *NOW, Viability::Viable, false);
            device.terms.offer = offer;
            let case = Case {
                busy,
                device: &device,
                node_counts: true,
                assignment,
                stale_answer: None,
                refused,
                reported: None,
                settling: SETTLING,
                now: *NOW,
            };
            decide(&case).health
        };
        let unassigned = || AssignmentState::Unassigned { since: *NOW, peer: None };
        let held =
            |health| matches!(health, Health::Unhealthy(reason) if matches!(*reason, Reason::Held { .. }));
        assert!(held(decided(OfferBy::Dra, unassigned(), true)), "{busy}");
        let always = busy == Busy::Unhealthy;
        assert_eq!(held(decided(OfferBy::Dra, AssignmentState::Assigned, true)), always, "{busy}");
        assert_eq!(held(decided(OfferBy::Dra, unassigned(), false)), always, "{busy}");
        let plugin = busy != Busy::Advertise;
        assert_eq!(held(decided(OfferBy::DevicePlugin, unassigned(), true)), plugin, "{busy}");
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
