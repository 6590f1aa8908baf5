//! What a watch knows: its groups, its devices, and who holds them.

use super::device::vfp_device;
use super::group::viability;
use super::holder::{looked_slot, vfp_holder, vfp_looked};
use super::occupancy::{VFP_PEEK_NONE, peek_number, vfp_occupancy};
use super::record::{self, Record, Slots};
use super::status::{Outcome, guard, vfp_error, vfp_status};
use super::watch::{vfp_watch, watch};
use std::ffi::c_char;
use std::time::Instant;
use vfio_probe::monitor::Group;
use vfio_probe::{Evidence, GroupId};

/// It rests on nothing yet.
pub const VFP_EVIDENCE_NONE: i32 = 0;
/// It rests on an open of the group's node.
pub const VFP_EVIDENCE_OPEN: i32 = 1;
/// It rests on the enable counts of the group's functions.
pub const VFP_EVIDENCE_ENABLE: i32 = 2;
/// It rests on the presence of the node.
pub const VFP_EVIDENCE_NODE: i32 = 3;

/// A group as a watch knows it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_watched {
    /// For how many milliseconds it has been in this state.
    pub for_ms: u64,
    /// The group's number.
    pub group: u32,
    /// VFP_STATE_*.
    pub state: i32,
    /// VFP_WHY_*.
    pub why: i32,
    /// The errno of VFP_WHY_ERRNO, else 0.
    pub os_errno: i32,
    /// VFP_EVIDENCE_*.
    pub evidence: i32,
    /// VFP_PEEK_*: the latest look without opening, VFP_PEEK_NONE before the first.
    pub peek: i32,
    /// How many members the group has, bound to VFIO or not.
    pub members: u32,
    /// 1 if VFIO can use the group, else 0.
    pub viable: i32,
    /// The member whose driver makes it not viable, else "".
    pub offender: [c_char; 72],
    /// That driver, else "".
    pub offender_driver: [c_char; 40],
}

const _: () = assert!(size_of::<vfp_watched>() == 152);

// SAFETY: repr(C); the sum of its fields is its size, so there is no padding.
unsafe impl Record for vfp_watched {
    const LEAST: usize = std::mem::offset_of!(vfp_watched, offender);
}

pub(super) fn evidence_number(evidence: Evidence) -> i32 {
    match evidence {
        Evidence::None => VFP_EVIDENCE_NONE,
        Evidence::Open => VFP_EVIDENCE_OPEN,
        Evidence::Enable => VFP_EVIDENCE_ENABLE,
        Evidence::Node => VFP_EVIDENCE_NODE,
    }
}

fn watched(group: &Group, now: Instant) -> vfp_watched {
    let vfp_occupancy { state, why, os_errno, .. } = group.state.occupancy.into();
    let (viable, offender, offender_driver) = viability(group.viability);
    let for_ms = u64::try_from(now.duration_since(group.state.since).as_millis()).unwrap_or(u64::MAX);
    vfp_watched {
        for_ms,
        group: group.id.0,
        state,
        why,
        os_errno,
        evidence: evidence_number(group.state.evidence),
        peek: group.peek.map_or(VFP_PEEK_NONE, peek_number),
        members: u32::try_from(group.members.len()).unwrap_or(u32::MAX),
        viable,
        offender,
        offender_driver,
    }
}

/// Tells all groups that have a bound device, by number: the first `capacity` of them are written, all are counted. What the
/// latest vfp_watch_next() knew: reads nothing. VFP_MORE as vfp_scan().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_groups(
    watch: *const vfp_watch,
    size: usize,
    capacity: usize,
    out_groups: *mut vfp_watched,
    out_count: *mut usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?.lock();
        record::given(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_groups, "out_groups") }?;
        let now = Instant::now();
        watch.monitor().groups().iter().for_each(|group| slots.push(&watched(group, now)));
        // SAFETY: looked at above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Tells all bound devices, and those that could not be read, as vfp_scan() does; what the latest vfp_watch_next() knew:
/// reads nothing, and does not know `sriov`, `vfs` and a virtual function's `parent`.
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
        record::given(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_devices, "out_devices") }?;
        let monitor = watch.monitor();
        monitor.devices().iter().for_each(|tracked| slots.push(&vfp_device::from(&tracked.device)));
        monitor.errors().iter().for_each(|error| slots.push(&vfp_device::from(error)));
        // SAFETY: looked at above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Tells the known holders of a held group, as vfp_holders() does; what the latest vfp_watch_next() knew: reads nothing.
/// No holder, and 0 processes in `out_looked`: nobody looked, or the group is not held.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_holders(
    watch: *const vfp_watch,
    group: u32,
    size: usize,
    capacity: usize,
    out_holders: *mut vfp_holder,
    out_count: *mut usize,
    looked_size: usize,
    out_looked: *mut vfp_looked,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?.lock();
        record::given(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_holders, "out_holders") }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut far = unsafe { looked_slot(looked_size, out_looked) }?;
        let group = GroupId(group);
        watch.holders(group).iter().for_each(|holder| slots.push(&vfp_holder::from(holder)));
        if let Some(far) = &mut far {
            far.push(&watch.coverage(group).unwrap_or_default().into());
        }
        // SAFETY: looked at above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
