//! The state that a watch knows: groups, devices and holders.

use super::device::vfp_device;
use super::group::viability;
use super::holder::{coverage_slot, vfp_holder, vfp_scan_coverage};
use super::occupancy::{VFP_PEEK_NONE, peek_number, vfp_occupancy};
use super::record::{self, Record, Slots};
use super::status::{Outcome, guard, vfp_error, vfp_status};
use super::watch::{vfp_watch, watch};
use std::ffi::c_char;
use std::time::Instant;
use vfio_probe::monitor::Group;
use vfio_probe::{Evidence, GroupId};

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

/// The state of a group as a watch knows it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_watched_group {
    /// Time since the group entered this state, in milliseconds.
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
}

const _: () = assert!(size_of::<vfp_watched_group>() == 152);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_watched_group {
    const MIN_SIZE: usize = std::mem::offset_of!(vfp_watched_group, offender);
}

pub(super) fn evidence_number(evidence: Evidence) -> i32 {
    match evidence {
        Evidence::None => VFP_EVIDENCE_NONE,
        Evidence::Open => VFP_EVIDENCE_OPEN,
        Evidence::Holder => VFP_EVIDENCE_HOLDER,
        Evidence::Enable => VFP_EVIDENCE_ENABLE,
        Evidence::Node => VFP_EVIDENCE_NODE,
    }
}

fn watched(group: &Group, now: Instant) -> vfp_watched_group {
    let vfp_occupancy { state, unknown_reason, os_errno, .. } = group.state.occupancy.into();
    let (viable, offender, offender_driver) = viability(group.viability);
    let state_age_ms = u64::try_from(now.duration_since(group.state.since).as_millis()).unwrap_or(u64::MAX);
    vfp_watched_group {
        state_age_ms,
        group: group.id.0,
        state,
        unknown_reason,
        os_errno,
        evidence: evidence_number(group.state.evidence),
        peek: group.peek.map_or(VFP_PEEK_NONE, peek_number),
        members: u32::try_from(group.members.len()).unwrap_or(u32::MAX),
        viable,
        offender,
        offender_driver,
    }
}

/// Lists the groups that have a bound device, ordered by number, in the state of the latest vfp_watch_next(). Writes
/// the first `capacity` records and sets `*out_count` to the number of groups. Reads nothing of the host. Returns
/// VFP_TRUNCATED as vfp_scan() does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_groups(
    watch: *const vfp_watch,
    size: usize,
    capacity: usize,
    out_groups: *mut vfp_watched_group,
    out_count: *mut usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?.lock();
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_groups, "out_groups") }?;
        let now = Instant::now();
        watch.monitor().groups().iter().for_each(|group| slots.push(&watched(group, now)));
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Lists the bound devices and those that could not be read, as vfp_scan() does, in the state of the latest
/// vfp_watch_next(). Reads nothing of the host. `sriov`, `vfs` and the `parent` of a virtual function are not set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_devices(
    watch: *const vfp_watch,
    size: usize,
    capacity: usize,
    out_devices: *mut vfp_device,
    out_count: *mut usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?.lock();
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_devices, "out_devices") }?;
        let monitor = watch.monitor();
        monitor.devices().iter().for_each(|tracked| slots.push(&vfp_device::from(&tracked.device)));
        monitor.errors().iter().for_each(|error| slots.push(&vfp_device::from(error)));
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Lists the known holders of a held group, as vfp_holders() does, in the state of the latest vfp_watch_next(). Reads
/// nothing of the host. If `processes` of `out_coverage` is 0, the group is not held or was not searched for holders.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_holders(
    watch: *const vfp_watch,
    group: u32,
    size: usize,
    capacity: usize,
    out_holders: *mut vfp_holder,
    out_count: *mut usize,
    coverage_size: usize,
    out_coverage: *mut vfp_scan_coverage,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?.lock();
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_holders, "out_holders") }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut coverage = unsafe { coverage_slot(coverage_size, out_coverage) }?;
        let group = GroupId(group);
        watch.holders(group).iter().for_each(|holder| slots.push(&vfp_holder::from(holder)));
        if let Some(coverage) = &mut coverage {
            coverage.push(&watch.coverage(group).unwrap_or_default().into());
        }
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
