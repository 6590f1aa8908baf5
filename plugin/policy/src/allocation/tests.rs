//! Tests of plans, refusals, substitutes and the meaning of probes.

use super::*;
use crate::testing::device_state;
use std::time::Instant;
use vfio_probe::UnknownReason;
use vfio_probe::text::Text;

const RESOURCE: &str = "nvidia.com/GPU";

fn snapshot() -> NodeSnapshot {
    let now = Instant::now();
    let offender =
        Viability::NotViable { member: Text::lossy(b"0000:05:00.1"), driver: Text::lossy(b"e1000") };
    let devices = vec![
        device_state("0000:01:00.0", 51, Occupancy::Free, now, Viability::Viable, false),
        device_state("0000:02:00.0", 52, Occupancy::Free, now, Viability::Viable, false),
        device_state("0000:02:00.1", 52, Occupancy::Free, now, Viability::Viable, false),
        device_state("0000:04:00.0", 54, Occupancy::Held, now, Viability::Viable, true),
        device_state("0000:05:00.0", 55, Occupancy::Free, now, offender, false),
    ];
    NodeSnapshot { devices: devices.into(), vfio_visible: true, ..NodeSnapshot::default() }
}

fn planned<'a>(
    containers: &[&[&str]],
    snapshot: &'a NodeSnapshot,
    assignments: &Assignments,
) -> Result<Plan<'a>, AllocateError> {
    planned_of(RESOURCE, containers, snapshot, assignments)
}

fn planned_of<'a>(
    resource: &str,
    containers: &[&[&str]],
    snapshot: &'a NodeSnapshot,
    assignments: &Assignments,
) -> Result<Plan<'a>, AllocateError> {
    let texts = |ids: &&[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<String>>();
    let containers: Vec<Vec<String>> = containers.iter().map(texts).collect();
    plan(resource, &Request::parse(resource, containers.iter().map(Vec::as_slice))?, snapshot, assignments)
}

#[test]
fn refusals_name_the_device_and_the_reason() {
    let snapshot = snapshot();
    for (ids, invalid, words) in [
        (&["0000:09:00.0"][..], true, "0000:09:00.0: nvidia.com/GPU has no such device"),
        (&["garbage"], true, "garbage: nvidia.com/GPU has no such"),
        (&["51"], true, "51: nvidia.com/GPU has no such device"),
        (&["0000:01:00.0", "0000:02:00.0\n"], true, "0000:02:00.0\n: nvidia.com/GPU has no such device"),
        (&["0000:01:00.0", "0000:01:00.0"], true, "twice"),
        (&["0000:04:00.0"], false, "being unbound"),
        (&["0000:05:00.0"], false, "group 55 is not viable: 0000:05:00.1 is bound to e1000"),
    ] {
        let error = planned(&[ids], &snapshot, &Assignments::default()).unwrap_err();
        assert_eq!(error.is_invalid_request(), invalid, "{ids:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let other = planned_of("nvidia.com/OTHER", &[&["0000:01:00.0"]], &snapshot, &Assignments::default());
    assert!(other.is_err());
    let device = snapshot.get("0000:04:00.0".parse().unwrap()).unwrap();
    let holders = &device.group.as_ref().unwrap().holders;
    for (no_substitute, end) in [
        (None, ""),
        (
            Some(NoSubstitute::CheckpointUnreadable),
            "; no substitute: the kubelet's checkpoint cannot be read",
        ),
        (Some(NoSubstitute::NoneFree), "; no substitute: no other device is free"),
    ] {
        let error = AllocateError::held(device, holders, no_substitute);
        assert_eq!(error.to_string(), format!("0000:04:00.0 (group 54) is held by pid 7 (qemu){end}"));
    }
}

#[test]
fn substitutes_are_free_and_unassigned() {
    let now = Instant::now();
    let device =
        |address, group, occupancy| device_state(address, group, occupancy, now, Viability::Viable, false);
    let offender =
        Viability::NotViable { member: Text::lossy(b"0000:05:00.1"), driver: Text::lossy(b"e1000") };
    let snapshot = NodeSnapshot {
        devices: vec![
            device("0000:01:00.0", 51, Occupancy::Held),
            device("0000:02:00.0", 52, Occupancy::Free),
            device("0000:03:00.0", 53, Occupancy::Held),
            device("0000:04:00.0", 54, Occupancy::Free),
            device_state("0000:05:00.0", 55, Occupancy::Free, now, offender, false),
            device("0000:06:00.0", 56, Occupancy::Free),
        ]
        .into(),
        vfio_visible: true,
        ..NodeSnapshot::default()
    };
    let set = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
    let found = |assignments: &Assignments, allocated: &[&str]| {
        let plan = planned(&[&["0000:01:00.0"]], &snapshot, assignments).unwrap();
        let candidates = substitute::candidates(RESOURCE, &plan, &snapshot, assignments, &set(allocated));
        candidates.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(found(&Assignments::default(), &[]), ["0000:02:00.0", "0000:04:00.0", "0000:06:00.0"]);
    assert_eq!(found(&Assignments::default(), &["0000:02:00.0"]), ["0000:04:00.0", "0000:06:00.0"]);
    let mut ledger = crate::assignments::ledger::Ledger::default();
    ledger.record_allocate(RESOURCE, set(&["0000:02:00.0"]), set(&["0000:02:00.0"]), Default::default(), now);
    assert_eq!(found(&Assignments::new(true, &ledger), &[]), ["0000:04:00.0", "0000:06:00.0"]);
    // An init container got this substitute before, and hands it on.
    ledger.record_allocate(RESOURCE, set(&["0000:01:00.0"]), set(&["0000:06:00.0"]), Default::default(), now);
    assert_eq!(found(&Assignments::new(true, &ledger), &[]), ["0000:06:00.0", "0000:04:00.0"]);
}

#[test]
fn every_probe_result_has_its_verdict() {
    let denied = Occupancy::Unknown(UnknownReason::Denied);
    for (probed, looks_held, absent_is_sure, verdict) in [
        (Occupancy::Free, false, false, ProbeVerdict::Grant),
        (Occupancy::Free, true, false, ProbeVerdict::Grant),
        (Occupancy::Held, false, false, ProbeVerdict::Held),
        (Occupancy::Absent, false, true, ProbeVerdict::Absent),
        (Occupancy::Absent, false, false, ProbeVerdict::Grant),
        (Occupancy::Absent, true, false, ProbeVerdict::Held),
        (denied, false, false, ProbeVerdict::Grant),
        (denied, true, false, ProbeVerdict::Held),
    ] {
        assert_eq!(judge(probed, || looks_held, absent_is_sure), verdict, "{probed:?} {looks_held}");
    }
}
