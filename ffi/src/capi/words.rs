//! The words for the constants of the C ABI, equal to those of the core. `?` stands for a number of a newer header.

use super::device::{
    VFP_KIND_MDEV, VFP_KIND_PCI, VFP_KIND_VENDOR_VF, VFP_SRIOV_NONE, VFP_SRIOV_PHYSICAL, VFP_SRIOV_VIRTUAL,
};
use super::device_nodes::{VFP_NODE_CDEV, VFP_NODE_CONTAINER, VFP_NODE_GROUP, VFP_NODE_IOMMUFD};
use super::group_state::{
    VFP_EVIDENCE_ENABLE, VFP_EVIDENCE_HOLDER, VFP_EVIDENCE_NODE, VFP_EVIDENCE_NONE, VFP_EVIDENCE_OPEN,
};
use super::hardware::{VFP_PRESENCE_LOST, VFP_PRESENCE_NOT_CHECKED, VFP_PRESENCE_PRESENT};
use super::holder::{
    VFP_IN_POD_NO, VFP_IN_POD_UNKNOWN, VFP_IN_POD_YES, VFP_PID_NAMESPACE_FOREIGN, VFP_PID_NAMESPACE_HOST,
    VFP_PID_NAMESPACE_UNKNOWN, VFP_VIA_CDEV, VFP_VIA_DEVICE, VFP_VIA_GROUP,
};
use super::occupancy::{
    VFP_PEEK_LOOKS_FREE, VFP_PEEK_LOOKS_HELD, VFP_PEEK_NONE, VFP_PEEK_UNAVAILABLE, VFP_STATE_ABSENT,
    VFP_STATE_FREE, VFP_STATE_HELD, VFP_STATE_UNKNOWN, VFP_UNKNOWN_DENIED, VFP_UNKNOWN_ERRNO,
    VFP_UNKNOWN_NONE, VFP_UNKNOWN_NOT_PROBED, VFP_UNKNOWN_TIMED_OUT,
};
use super::status::{
    VFP_DENIED, VFP_INVALID, VFP_MALFORMED, VFP_MISSING, VFP_NO_EVENT, VFP_OK, VFP_PANIC, VFP_SYSTEM,
    VFP_TIMED_OUT, VFP_TOO_LONG, VFP_TRUNCATED, VFP_UNSUPPORTED, vfp_status,
};
use super::watch::{
    VFP_EVENT_BOUND, VFP_EVENT_CHANGED, VFP_EVENT_FREED, VFP_EVENT_HELD, VFP_EVENT_READY, VFP_EVENT_RESCAN,
    VFP_EVENT_UNBOUND,
};
use std::ffi::{CStr, c_char};

const STATUSES: &[(i32, &CStr)] = &[
    (VFP_OK, c"ok"),
    (VFP_TRUNCATED, c"truncated"),
    (VFP_NO_EVENT, c"no-event"),
    (VFP_TIMED_OUT, c"timed-out"),
    (VFP_INVALID, c"invalid"),
    (VFP_MISSING, c"missing"),
    (VFP_DENIED, c"denied"),
    (VFP_MALFORMED, c"malformed"),
    (VFP_TOO_LONG, c"too-long"),
    (VFP_SYSTEM, c"system"),
    (VFP_PANIC, c"panic"),
    (VFP_UNSUPPORTED, c"unsupported"),
];
const KINDS: &[(i32, &CStr)] =
    &[(VFP_KIND_PCI, c"pci"), (VFP_KIND_MDEV, c"mdev"), (VFP_KIND_VENDOR_VF, c"vendor-vf")];
const SRIOV_ROLES: &[(i32, &CStr)] =
    &[(VFP_SRIOV_NONE, c"none"), (VFP_SRIOV_PHYSICAL, c"physical"), (VFP_SRIOV_VIRTUAL, c"virtual")];
const PEEKS: &[(i32, &CStr)] = &[
    (VFP_PEEK_NONE, c"none"),
    (VFP_PEEK_LOOKS_FREE, c"looks-free"),
    (VFP_PEEK_LOOKS_HELD, c"looks-held"),
    (VFP_PEEK_UNAVAILABLE, c"unavailable"),
];
const STATES: &[(i32, &CStr)] = &[
    (VFP_STATE_UNKNOWN, c"unknown"),
    (VFP_STATE_FREE, c"free"),
    (VFP_STATE_HELD, c"held"),
    (VFP_STATE_ABSENT, c"absent"),
];
const UNKNOWN_REASONS: &[(i32, &CStr)] = &[
    (VFP_UNKNOWN_NONE, c"none"),
    (VFP_UNKNOWN_DENIED, c"denied"),
    (VFP_UNKNOWN_TIMED_OUT, c"timed-out"),
    (VFP_UNKNOWN_ERRNO, c"errno"),
    (VFP_UNKNOWN_NOT_PROBED, c"not-probed"),
];
const EVIDENCES: &[(i32, &CStr)] = &[
    (VFP_EVIDENCE_NONE, c"none"),
    (VFP_EVIDENCE_OPEN, c"open"),
    (VFP_EVIDENCE_ENABLE, c"enable"),
    (VFP_EVIDENCE_NODE, c"node"),
    (VFP_EVIDENCE_HOLDER, c"holder"),
];
const VIAS: &[(i32, &CStr)] =
    &[(VFP_VIA_GROUP, c"group"), (VFP_VIA_DEVICE, c"device"), (VFP_VIA_CDEV, c"cdev")];
const IN_POD: &[(i32, &CStr)] =
    &[(VFP_IN_POD_UNKNOWN, c"unknown"), (VFP_IN_POD_NO, c"no"), (VFP_IN_POD_YES, c"yes")];
const PID_NAMESPACES: &[(i32, &CStr)] = &[
    (VFP_PID_NAMESPACE_UNKNOWN, c"unknown"),
    (VFP_PID_NAMESPACE_HOST, c"host"),
    (VFP_PID_NAMESPACE_FOREIGN, c"foreign"),
];
const NODES: &[(i32, &CStr)] = &[
    (VFP_NODE_CONTAINER, c"container"),
    (VFP_NODE_GROUP, c"group"),
    (VFP_NODE_IOMMUFD, c"iommufd"),
    (VFP_NODE_CDEV, c"cdev"),
];
const PRESENCES: &[(i32, &CStr)] = &[
    (VFP_PRESENCE_NOT_CHECKED, c"not-checked"),
    (VFP_PRESENCE_PRESENT, c"present"),
    (VFP_PRESENCE_LOST, c"lost"),
];
const EVENTS: &[(i32, &CStr)] = &[
    (VFP_EVENT_BOUND, c"bound"),
    (VFP_EVENT_UNBOUND, c"unbound"),
    (VFP_EVENT_HELD, c"held"),
    (VFP_EVENT_FREED, c"freed"),
    (VFP_EVENT_CHANGED, c"changed"),
    (VFP_EVENT_RESCAN, c"rescan"),
    (VFP_EVENT_READY, c"ready"),
];

fn word(table: &'static [(i32, &'static CStr)], number: i32) -> *const c_char {
    table.iter().find(|(known, _)| *known == number).map_or(c"?".as_ptr(), |(_, word)| word.as_ptr())
}

/// Returns the word for a vfp_status: `ok`, `missing`, and so on, or `?` for a number that the
/// library does not know.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_status_text(status: vfp_status) -> *const c_char {
    word(STATUSES, status)
}

/// Returns the word for a VFP_KIND_*: `pci`, `mdev`, `vendor-vf`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_kind_text(kind: i32) -> *const c_char {
    word(KINDS, kind)
}

/// Returns the word for a VFP_SRIOV_*: `none`, `physical`, `virtual`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_sriov_text(sriov: i32) -> *const c_char {
    word(SRIOV_ROLES, sriov)
}

/// Returns the word for a VFP_PEEK_*: `looks-free`, `looks-held`, `unavailable`, `none`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_peek_text(peek: i32) -> *const c_char {
    word(PEEKS, peek)
}

/// Returns the word for a VFP_STATE_*: `free`, `held`, `absent`, `unknown`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_state_text(state: i32) -> *const c_char {
    word(STATES, state)
}

/// Returns the word for a VFP_UNKNOWN_*: `none`, `denied`, `timed-out`, `errno`, `not-probed`, or
/// `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_unknown_reason_text(unknown_reason: i32) -> *const c_char {
    word(UNKNOWN_REASONS, unknown_reason)
}

/// Returns the word for a VFP_EVIDENCE_*: `none`, `open`, `enable`, `node`, `holder`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_evidence_text(evidence: i32) -> *const c_char {
    word(EVIDENCES, evidence)
}

/// Returns the word for a VFP_VIA_*: `group`, `device`, `cdev`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_via_text(via: i32) -> *const c_char {
    word(VIAS, via)
}

/// Returns the word for a VFP_IN_POD_*: `yes`, `no`, `unknown`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_in_pod_text(in_pod: i32) -> *const c_char {
    word(IN_POD, in_pod)
}

/// Returns the word for a VFP_PID_NAMESPACE_*: `host`, `foreign`, `unknown`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_pid_namespace_text(pid_namespace: i32) -> *const c_char {
    word(PID_NAMESPACES, pid_namespace)
}

/// Returns the word for a VFP_EVENT_*: `bound`, `unbound`, `held`, `freed`, `changed`, `rescan`,
/// `ready`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_event_text(event: i32) -> *const c_char {
    word(EVENTS, event)
}

/// Returns the word for a VFP_NODE_*: `container`, `group`, `iommufd`, `cdev`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_node_text(node: i32) -> *const c_char {
    word(NODES, node)
}

/// Returns the word for a VFP_PRESENCE_*: `present`, `lost`, `not-checked`, or `?`.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_presence_text(presence: i32) -> *const c_char {
    word(PRESENCES, presence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::occupancy::vfp_occupancy;
    use crate::capi::{device, group_state, hardware, holder, status};
    use vfio_probe::holders::Via;
    use vfio_probe::peek::Peek;
    use vfio_probe::{
        DeviceId, ErrorKind, Event, Evidence, GroupId, InPod, Kind, Occupancy, PidNamespace, Presence,
        UnknownReason,
    };

    fn text_of(word: *const c_char) -> &'static str {
        // SAFETY: the texts of the tables are static and NUL-terminated.
        unsafe { CStr::from_ptr(word) }.to_str().unwrap()
    }

    #[test]
    fn every_constant_has_the_word_of_the_core() {
        for kind in [Kind::Pci, Kind::Mdev, Kind::VendorVf] {
            assert_eq!(text_of(vfp_kind_text(device::kind_number(kind))), kind.as_str());
        }
        for (number, peek) in [
            (VFP_PEEK_LOOKS_FREE, Peek::LooksFree),
            (VFP_PEEK_LOOKS_HELD, Peek::LooksHeld),
            (VFP_PEEK_UNAVAILABLE, Peek::Unavailable),
        ] {
            assert_eq!(text_of(vfp_peek_text(number)), peek.as_str());
        }
        for occupancy in
            [Occupancy::Free, Occupancy::Held, Occupancy::Absent, Occupancy::Unknown(UnknownReason::TimedOut)]
        {
            let record = vfp_occupancy::from(occupancy);
            assert_eq!(text_of(vfp_state_text(record.state)), occupancy.as_str());
        }
        for reason in [
            UnknownReason::Denied,
            UnknownReason::TimedOut,
            UnknownReason::Errno(5),
            UnknownReason::NotProbed,
        ] {
            let record = vfp_occupancy::from(Occupancy::Unknown(reason));
            assert_eq!(text_of(vfp_unknown_reason_text(record.unknown_reason)), reason.as_str());
        }
        for evidence in [Evidence::None, Evidence::Open, Evidence::Holder, Evidence::Enable, Evidence::Node] {
            assert_eq!(text_of(vfp_evidence_text(group_state::evidence_number(evidence))), evidence.as_str());
        }
        for via in [Via::Group, Via::Device, Via::Cdev] {
            assert_eq!(text_of(vfp_via_text(holder::via_number(via))), via.as_str());
        }
        for presence in [Presence::Present, Presence::Lost, Presence::NotChecked] {
            assert_eq!(text_of(vfp_presence_text(hardware::presence_number(presence))), presence.as_str());
        }
        for in_pod in [InPod::Yes, InPod::No, InPod::Unknown] {
            assert_eq!(text_of(vfp_in_pod_text(holder::in_pod_number(in_pod))), in_pod.as_str());
        }
        for namespace in [PidNamespace::Host, PidNamespace::Foreign, PidNamespace::Unknown] {
            let number = holder::pid_namespace_number(namespace);
            assert_eq!(text_of(vfp_pid_namespace_text(number)), namespace.as_str());
        }
        let (group, id) = (GroupId(1), DeviceId::parse(b"0000:01:00.0").unwrap());
        for event in [
            Event::Bound(id),
            Event::Unbound(id),
            Event::Held(group),
            Event::Freed(group),
            Event::Changed(group),
            Event::Rescan,
            Event::Ready,
        ] {
            assert_eq!(
                text_of(vfp_event_text(super::super::watch::vfp_event::from(event).kind)),
                event.as_str()
            );
        }
        for kind in [
            ErrorKind::Missing,
            ErrorKind::Denied,
            ErrorKind::Malformed,
            ErrorKind::TooLong,
            ErrorKind::System,
        ] {
            assert_eq!(text_of(vfp_status_text(status::status_of(kind))), kind.as_str());
        }
    }

    #[test]
    fn constants_are_unique_and_unknown_ones_have_a_word() {
        for table in [
            STATUSES,
            KINDS,
            SRIOV_ROLES,
            PEEKS,
            STATES,
            UNKNOWN_REASONS,
            EVIDENCES,
            VIAS,
            IN_POD,
            PID_NAMESPACES,
            NODES,
            PRESENCES,
            EVENTS,
        ] {
            let mut numbers: Vec<i32> = table.iter().map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), table.len());
            assert_eq!(text_of(word(table, 99)), "?");
            assert_eq!(text_of(word(table, i32::MIN)), "?");
        }
    }
}
