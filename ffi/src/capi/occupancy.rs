//! Occupancy of a group: the peek, which opens nothing, and the probe, which opens the group.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Outcome, UNNAMED, VFP_OK, group_argument, guard, vfp_error, vfp_status};
use std::time::Duration;
use vfio_probe::peek::Peek;
use vfio_probe::{Occupancy, UnknownReason};

/// No function of the group is enabled. A process that has the group open but no device of it is
/// not visible to a peek.
pub const VFP_PEEK_LOOKS_FREE: i32 = 0;
/// A function of the group is enabled: a process has the device open, or the `enable` count is
/// left over from a previous driver.
pub const VFP_PEEK_LOOKS_HELD: i32 = 1;
/// The watch has not peeked at the group yet; only in vfp_watched_group.
pub const VFP_PEEK_NONE: i32 = -1;
/// The group has no `enable` count: mediated devices and vendor virtual functions.
pub const VFP_PEEK_UNAVAILABLE: i32 = 2;

/// The state is unknown: neither free nor held. `unknown_reason` says why.
pub const VFP_STATE_UNKNOWN: i32 = 0;
/// No process has the group open.
pub const VFP_STATE_FREE: i32 = 1;
/// A process has the group or a device of it open. A probe reports this for EBUSY only. A watch
/// also reports it for an `enable` count above its baseline (VFP_EVIDENCE_ENABLE).
pub const VFP_STATE_HELD: i32 = 2;
/// The group has no device node, or no device behind the node (ENOENT, ENXIO, ENODEV).
pub const VFP_STATE_ABSENT: i32 = 3;

/// The state is not VFP_STATE_UNKNOWN.
pub const VFP_UNKNOWN_NONE: i32 = 0;
/// The kernel denied the open: EPERM from the device cgroup, EACCES from the file mode. The group
/// may be free or held.
pub const VFP_UNKNOWN_DENIED: i32 = 1;
/// The open did not return before the deadline.
pub const VFP_UNKNOWN_TIMED_OUT: i32 = 2;
/// The open failed with another errno, which `os_errno` holds.
pub const VFP_UNKNOWN_ERRNO: i32 = 3;
/// The watch has not probed the group yet, or the snapshot does not probe.
pub const VFP_UNKNOWN_NOT_PROBED: i32 = 4;

/// The occupancy of a group: the result of a probe.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_occupancy {
    /// A VFP_STATE_* value.
    pub state: i32,
    /// A VFP_UNKNOWN_* value: the reason for VFP_STATE_UNKNOWN, else VFP_UNKNOWN_NONE.
    pub unknown_reason: i32,
    /// The errno for VFP_UNKNOWN_ERRNO, else 0.
    pub os_errno: i32,
    /// Always 0.
    pub reserved: i32,
}

const _: () = assert!(size_of::<vfp_occupancy>() == 16);

// SAFETY: repr(C), four numbers of the same size, so there is no padding.
unsafe impl Record for vfp_occupancy {}

pub(super) fn peek_number(peek: Peek) -> i32 {
    match peek {
        Peek::LooksFree => VFP_PEEK_LOOKS_FREE,
        Peek::LooksHeld => VFP_PEEK_LOOKS_HELD,
        Peek::Unavailable => VFP_PEEK_UNAVAILABLE,
    }
}

pub(super) fn state_number(occupancy: Occupancy) -> i32 {
    match occupancy {
        Occupancy::Unknown(_) => VFP_STATE_UNKNOWN,
        Occupancy::Free => VFP_STATE_FREE,
        Occupancy::Held => VFP_STATE_HELD,
        Occupancy::Absent => VFP_STATE_ABSENT,
    }
}

impl From<Occupancy> for vfp_occupancy {
    fn from(occupancy: Occupancy) -> Self {
        let (unknown_reason, os_errno) = match occupancy {
            Occupancy::Free | Occupancy::Held | Occupancy::Absent => (VFP_UNKNOWN_NONE, 0),
            Occupancy::Unknown(UnknownReason::Denied) => (VFP_UNKNOWN_DENIED, 0),
            Occupancy::Unknown(UnknownReason::TimedOut) => (VFP_UNKNOWN_TIMED_OUT, 0),
            Occupancy::Unknown(UnknownReason::Errno(errno)) => (VFP_UNKNOWN_ERRNO, errno),
            Occupancy::Unknown(UnknownReason::NotProbed) => (VFP_UNKNOWN_NOT_PROBED, 0),
            Occupancy::Unknown(_) => (UNNAMED, 0),
        };
        Self { state: state_number(occupancy), unknown_reason, os_errno, reserved: 0 }
    }
}

/// Sets `*out_has_nodes` to 1 if the kernel has device nodes for groups, and to 0 if it was built
/// without CONFIG_VFIO_GROUP. Without group nodes every probe returns VFP_STATE_ABSENT; use a
/// peek instead. Opens no device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_has_group_nodes(
    root: *const vfp_root,
    out_has_nodes: *mut i32,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        record::require(out_has_nodes, "out_has_nodes")?;
        let has = host.with_buffer(|root, _| root.has_group_nodes());
        // SAFETY: not NULL, and writable by the header's conventions.
        unsafe { out_has_nodes.write(i32::from(has)) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's record or NULL, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Peeks at a group: reads the sysfs attribute `enable` of its functions. Opens no device, needs
/// no device node and no privilege, and disturbs no other process. A single peek has no baseline,
/// so a count that is left over from before the bind looks held. A watch keeps baselines.
///
/// Returns VFP_MISSING if there is no such group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_peek(
    root: *const vfp_root,
    group: u32,
    out_peek: *mut i32,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        let group = group_argument(group)?;
        record::require(out_peek, "out_peek")?;
        let peek = peek_number(host.with_buffer(|root, buffer| root.peek(group, buffer))?);
        // SAFETY: not NULL, and writable by the header's conventions.
        unsafe { out_peek.write(peek) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Probes a group: opens its device node and closes it at once. While a probe has a free group
/// open, the open of another process fails with EBUSY: do not probe a free group in a loop, and
/// do not probe a group that a VM may be about to open. A probe of a held group does not disturb
/// the holder.
///
/// Blocks for seconds while the kernel resets a device of the group; vfp_probe_within() has a
/// deadline. The call returns VFP_OK with a state for every result of the open. It fails only for
/// invalid arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_probe(
    root: *const vfp_root,
    group: u32,
    size: usize,
    out_occupancy: *mut vfp_occupancy,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        let group = group_argument(group)?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_occupancy, "out_occupancy") }?;
        slot.push(&host.root.probe(group).into());
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Probes a group on a helper thread and waits at most `timeout_ms` milliseconds. Without a
/// result by then the state is VFP_STATE_UNKNOWN with VFP_UNKNOWN_TIMED_OUT. A root has at most
/// one outstanding probe per group and four in all. If the group already has an outstanding
/// probe, of another caller or one that hangs, the call times out at once.
///
/// After VFP_UNKNOWN_TIMED_OUT a probe that has started continues and may open the group for a
/// moment later, even after the root was closed. A probe that has not started is dropped. A
/// `timeout_ms` of 0 usually times out.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_probe_within(
    root: *const vfp_root,
    group: u32,
    timeout_ms: u32,
    size: usize,
    out_occupancy: *mut vfp_occupancy,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        let group = group_argument(group)?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_occupancy, "out_occupancy") }?;
        let deadline = Duration::from_millis(timeout_ms.into());
        slot.push(&host.prober.probe(group, deadline).into());
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
