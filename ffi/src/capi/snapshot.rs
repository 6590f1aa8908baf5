//! The snapshot handle: devices, groups, holders and coverage at one moment.

use super::device::vfp_device;
use super::group_state::{Seen, vfp_watched_group};
use super::holder::{coverage_slot, vfp_holder, vfp_scan_coverage};
use super::record::{self, Slots};
use super::root::{host, vfp_root};
use super::status::{
    Failure, Outcome, VFP_ALL_GROUPS, VFP_OK, group_argument, guard, guard_value, vfp_error, vfp_status,
};
use std::time::Duration;
use vfio_probe::device::Detail;
use vfio_probe::{GroupSnapshot, Snapshot};

/// All bound devices at one moment, with their groups and holders. It never changes. Its
/// functions may be called from any thread and read nothing of the host.
pub struct vfp_snapshot(pub(super) Snapshot);

/// Reads all bound devices with their groups and the holders of these. Close the snapshot with
/// vfp_snapshot_close(). The root may be closed earlier.
///
/// A `probe_timeout_ms` of 0 opens no device: a process in `proc` that has a group open shows
/// that it is held (VFP_EVIDENCE_HOLDER), and otherwise a peek decides (VFP_EVIDENCE_ENABLE).
/// Another value probes each group too, as vfp_probe_within() does with that timeout, after the
/// scan for holders. Reads /proc of all processes, which takes milliseconds on a busy host. Fails
/// if the bound devices cannot be listed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_snapshot_take(
    root: *const vfp_root,
    probe_timeout_ms: u32,
    out_snapshot: *mut *mut vfp_snapshot,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        record::require(out_snapshot, "out_snapshot")?;
        let timeout = Duration::from_millis(probe_timeout_ms.into());
        let probes = (probe_timeout_ms > 0).then_some((&*host.prober, timeout));
        let snapshot = Box::new(vfp_snapshot(host.root.snapshot(Detail::Full, probes)?));
        // SAFETY: not NULL, and writable by the header's conventions.
        unsafe { out_snapshot.write(Box::into_raw(snapshot)) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Closes a snapshot and sets `*snapshot` to NULL, as vfp_root_close() does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_snapshot_close(snapshot: *mut *mut vfp_snapshot) {
    guard_value((), || {
        if snapshot.is_null() {
            return;
        }
        // SAFETY: not NULL, so the caller's variable by the header's conventions.
        let handle = unsafe { snapshot.replace(std::ptr::null_mut()) };
        if !handle.is_null() {
            // SAFETY: not NULL, so from vfp_snapshot_take(), and the caller's variable was the only reference.
            drop(unsafe { Box::from_raw(handle) });
        }
    });
}

/// Lists the devices of a snapshot, ordered by id, as vfp_scan() does. What could not be read
/// follows them, as records with a negative `status`: also a member of a group, or `proc`, with
/// an `id` of "".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_snapshot_devices(
    snapshot: *const vfp_snapshot,
    size: usize,
    capacity: usize,
    out_devices: *mut vfp_device,
    out_count: *mut usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let snapshot = unsafe { self::snapshot(snapshot) }?;
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_devices, "out_devices") }?;
        snapshot.devices.iter().for_each(|device| slots.push(&vfp_device::from(device)));
        snapshot.errors.iter().for_each(|error| slots.push(&vfp_device::from(error)));
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Lists the groups of a snapshot, ordered by number, as vfp_watch_groups() does. `state_age_ms`
/// is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_snapshot_groups(
    snapshot: *const vfp_snapshot,
    size: usize,
    capacity: usize,
    out_groups: *mut vfp_watched_group,
    out_count: *mut usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let snapshot = unsafe { self::snapshot(snapshot) }?;
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_groups, "out_groups") }?;
        snapshot.groups.iter().for_each(|group| slots.push(&seen(group)));
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Returns the state of one group of a snapshot, as vfp_snapshot_groups() does. Returns
/// VFP_MISSING if the snapshot has no such group: it has no bound device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_snapshot_group(
    snapshot: *const vfp_snapshot,
    group: u32,
    size: usize,
    out_group: *mut vfp_watched_group,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let snapshot = unsafe { self::snapshot(snapshot) }?;
        let group = group_argument(group)?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_group, "out_group") }?;
        slot.push(&seen(snapshot.group(group).ok_or(Failure::NoSuchGroup(group))?));
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Lists the holders of a group of a snapshot, ordered by pid, as vfp_holders() does;
/// VFP_ALL_GROUPS as `group` means those of all groups. `out_coverage` receives the coverage of the
/// scan and may be NULL. Lists none for a group that the snapshot does not contain.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_snapshot_holders(
    snapshot: *const vfp_snapshot,
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
        let snapshot = unsafe { self::snapshot(snapshot) }?;
        let group = group_argument(group)?;
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_holders, "out_holders") }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut coverage = unsafe { coverage_slot(coverage_size, out_coverage) }?;
        let groups = snapshot.groups.iter().filter(|seen| group.0 == VFP_ALL_GROUPS || seen.id == group);
        groups.flat_map(|group| &group.holders).for_each(|holder| slots.push(&vfp_holder::from(holder)));
        if let Some(coverage) = &mut coverage {
            coverage.push(&snapshot.coverage.into());
        }
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

fn seen(group: &GroupSnapshot) -> vfp_watched_group {
    vfp_watched_group::from(Seen {
        id: group.id,
        occupancy: group.occupancy,
        evidence: group.evidence,
        state_age: Duration::ZERO,
        peek: Some(group.peek),
        members: &group.members,
    })
}

/// Returns the snapshot behind a handle.
///
/// # Safety
/// `snapshot` is NULL or an open snapshot that is not closed while the result is in use.
unsafe fn snapshot<'a>(snapshot: *const vfp_snapshot) -> Result<&'a Snapshot, Failure> {
    // SAFETY: this function's contract.
    unsafe { snapshot.as_ref() }
        .map(|snapshot| &snapshot.0)
        .ok_or(Failure::Argument("snapshot", "the handle is NULL or closed"))
}
