//! The record of a group's state, in a snapshot or as a watch knows it.

use super::group::viability;
use super::occupancy::{VFP_PEEK_NONE, peek_number, vfp_occupancy};
use super::record::Record;
use super::status::UNNAMED;
use std::ffi::c_char;
use std::time::Duration;
use vfio_probe::peek::Peek;
use vfio_probe::{Evidence, GroupId, Member, Occupancy, Viability};

/// There is no evidence yet.
pub const VFP_EVIDENCE_NONE: i32 = 0;
/// A probe: an open of the group's device node.
pub const VFP_EVIDENCE_OPEN: i32 = 1;
/// A peek: the `enable` counts of the group's functions.
pub const VFP_EVIDENCE_ENABLE: i32 = 2;
/// The presence or absence of the device node.
pub const VFP_EVIDENCE_NODE: i32 = 3;
/// A process in /proc that has the group or a device of it open.
pub const VFP_EVIDENCE_HOLDER: i32 = 4;

/// The state of a group as a watch knows it, or as a snapshot contains it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_watched_group {
    /// Time since the group entered this state, in milliseconds. 0 in a snapshot.
    pub state_age_ms: u64,
    /// Group number.
    pub group: u32,
    /// A VFP_STATE_* value.
    pub state: i32,
    /// A VFP_UNKNOWN_* value: the reason for VFP_STATE_UNKNOWN, else VFP_UNKNOWN_NONE.
    pub unknown_reason: i32,
    /// The errno for VFP_UNKNOWN_ERRNO, else 0.
    pub os_errno: i32,
    /// A VFP_EVIDENCE_* value: the observation that the state is based on.
    pub evidence: i32,
    /// A VFP_PEEK_* value: the latest peek, or VFP_PEEK_NONE before the first.
    pub peek: i32,
    /// Number of members of the group, bound to a VFIO driver or not.
    pub members: u32,
    /// 1 if VFIO can use the group, else 0.
    pub viable: i32,
    /// First member with a driver that makes the group not viable, else "".
    pub offender: [c_char; 72],
    /// Driver of `offender`, else "".
    pub offender_driver: [c_char; 40],
    /// Number of members that make the group not viable. vfp_members() lists them: `offends` is
    /// 1.
    pub offenders: u32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<vfp_watched_group>() == 160);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_watched_group {}

pub(super) fn evidence_number(evidence: Evidence) -> i32 {
    match evidence {
        Evidence::None => VFP_EVIDENCE_NONE,
        Evidence::Open => VFP_EVIDENCE_OPEN,
        Evidence::Holder => VFP_EVIDENCE_HOLDER,
        Evidence::Enable => VFP_EVIDENCE_ENABLE,
        Evidence::Node => VFP_EVIDENCE_NODE,
        _ => UNNAMED,
    }
}

/// A group that is watched, or that a snapshot contains.
pub(super) struct Seen<'a> {
    pub(super) id: GroupId,
    pub(super) occupancy: Occupancy,
    pub(super) evidence: Evidence,
    pub(super) state_age: Duration,
    pub(super) peek: Option<Peek>,
    pub(super) members: &'a [Member],
}

impl From<Seen<'_>> for vfp_watched_group {
    fn from(group: Seen<'_>) -> Self {
        let vfp_occupancy { state, unknown_reason, os_errno, .. } = group.occupancy.into();
        let (viable, offender, offender_driver) = viability(Viability::of(group.members));
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            state_age_ms: u64::try_from(group.state_age.as_millis()).unwrap_or(u64::MAX),
            group: group.id.0,
            state,
            unknown_reason,
            os_errno,
            evidence: evidence_number(group.evidence),
            peek: group.peek.map_or(VFP_PEEK_NONE, peek_number),
            members: count(group.members.len()),
            viable,
            offender,
            offender_driver,
            offenders: count(Viability::offenders(group.members).count()),
            reserved: 0,
        }
    }
}
