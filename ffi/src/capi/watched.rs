//! The state that a watch knows: groups, devices and holders.

use super::device::vfp_device;
use super::group_state::{Seen, vfp_watched_group};
use super::holder::{coverage_slot, vfp_holder, vfp_scan_coverage};
use super::record::{self, Slots};
use super::status::{Failure, Outcome, VFP_OK, group_argument, guard, vfp_error, vfp_status};
use super::watch::{vfp_watch, watch};
use std::time::Instant;
use vfio_probe::monitor::Group;

fn watched(group: &Group, now: Instant) -> vfp_watched_group {
    let state = &group.state;
    vfp_watched_group::from(Seen {
        id: group.id,
        occupancy: state.occupancy,
        evidence: state.evidence,
        state_age: now.duration_since(state.since),
        peek: group.peek,
        members: &group.members,
    })
}

/// Lists the groups that have a bound device, ordered by number, in the state of the latest
/// vfp_watch_next(). Writes the first `capacity` records and sets `*out_count` to the number of
/// groups. Reads nothing of the host. Returns VFP_TRUNCATED as vfp_scan() does.
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

/// Returns the state of one group, as vfp_watch_groups() does. Reads nothing of the host, so it
/// costs less than a microsecond. Returns VFP_MISSING if the watch knows no such group: it has no
/// bound device, or the watch is not ready (vfp_watch_is_ready()).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_group(
    watch: *const vfp_watch,
    group: u32,
    size: usize,
    out_group: *mut vfp_watched_group,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?.lock();
        let group = group_argument(group)?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_group, "out_group") }?;
        let known = watch.monitor().group(group).ok_or(Failure::NoSuchGroup(group))?;
        slot.push(&watched(known, Instant::now()));
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Lists the bound devices and those that could not be read, as vfp_scan() does, in the state of
/// the latest vfp_watch_next(). Reads nothing of the host. `sriov`, `vfs` and the `parent` of a
/// virtual function are not set.
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

/// Lists the known holders of a held group, as vfp_holders() does, in the state of the latest
/// vfp_watch_next(). Reads nothing of the host. If `processes` of `out_coverage` is 0, the group
/// is not held or was not searched for holders.
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
        let group = group_argument(group)?;
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_holders, "out_holders") }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut coverage = unsafe { coverage_slot(coverage_size, out_coverage) }?;
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
