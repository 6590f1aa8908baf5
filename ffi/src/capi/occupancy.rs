//! Whether a group is held: the look without opening, and the open.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Outcome, VFP_OK, guard, vfp_error, vfp_status};
use std::time::Duration;
use vfio_probe::peek::Peek;
use vfio_probe::{GroupId, Occupancy, UnknownReason};

/// No function of the group is enabled. A holder that has the group open but no device of it looks like this too.
pub const VFP_PEEK_LOOKS_FREE: i32 = 0;
/// A function of the group is enabled: somebody has its device open, or left the count behind.
pub const VFP_PEEK_LOOKS_HELD: i32 = 1;
/// Nobody has looked yet; only in vfp_watched.
pub const VFP_PEEK_NONE: i32 = -1;
/// There is no count to read: mediated devices, vendor virtual functions.
pub const VFP_PEEK_BLIND: i32 = 2;

/// It could not be told; neither free nor held.
pub const VFP_STATE_UNKNOWN: i32 = 0;
/// Nobody has the group.
pub const VFP_STATE_FREE: i32 = 1;
/// Some process has the group or a device of it open. From a probe: the kernel said EBUSY, and nothing else counts as this. From
/// a watch also: VFP_EVIDENCE_ENABLE says that it rests on an enable count above its baseline.
pub const VFP_STATE_HELD: i32 = 2;
/// There is no node, or no device behind it.
pub const VFP_STATE_ABSENT: i32 = 3;

/// Of a state that is known.
pub const VFP_WHY_NONE: i32 = 0;
/// The open was denied: EPERM by the device cgroup, EACCES by the node's mode. Says nothing about a holder.
pub const VFP_WHY_DENIED: i32 = 1;
/// No answer within the deadline.
pub const VFP_WHY_LATE: i32 = 2;
/// Another errno, in `os_errno`.
pub const VFP_WHY_ERRNO: i32 = 3;
/// Nobody has asked yet.
pub const VFP_WHY_NOT_ASKED: i32 = 4;

/// The answer of an open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_occupancy {
    /// VFP_STATE_*.
    pub state: i32,
    /// VFP_WHY_*: why it is VFP_STATE_UNKNOWN.
    pub why: i32,
    /// The errno of VFP_WHY_ERRNO, else 0.
    pub os_errno: i32,
    /// 0.
    pub reserved: i32,
}

const _: () = assert!(size_of::<vfp_occupancy>() == 16);

// SAFETY: repr(C), four numbers of one size.
unsafe impl Record for vfp_occupancy {
    const LEAST: usize = std::mem::offset_of!(vfp_occupancy, reserved);
}

pub(super) fn peek_number(peek: Peek) -> i32 {
    match peek {
        Peek::LooksFree => VFP_PEEK_LOOKS_FREE,
        Peek::LooksHeld => VFP_PEEK_LOOKS_HELD,
        Peek::Unavailable => VFP_PEEK_BLIND,
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
        let (why, os_errno) = match occupancy {
            Occupancy::Free | Occupancy::Held | Occupancy::Absent => (VFP_WHY_NONE, 0),
            Occupancy::Unknown(UnknownReason::Denied) => (VFP_WHY_DENIED, 0),
            Occupancy::Unknown(UnknownReason::TimedOut) => (VFP_WHY_LATE, 0),
            Occupancy::Unknown(UnknownReason::Errno(errno)) => (VFP_WHY_ERRNO, errno),
            Occupancy::Unknown(UnknownReason::NotProbed) => (VFP_WHY_NOT_ASKED, 0),
        };
        Self { state: state_number(occupancy), why, os_errno, reserved: 0 }
    }
}

/// Whether the kernel has nodes for groups: 1, or 0 for one without CONFIG_VFIO_GROUP, where a probe of any group answers
/// VFP_STATE_ABSENT and a peek is what tells. Opens nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_has_group_nodes(
    root: *const vfp_root,
    out_has: *mut i32,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        record::given(out_has, "out_has")?;
        let has = host.with_buffer(|root, _| root.has_group_nodes());
        // SAFETY: not NULL, and the caller's to be written.
        unsafe { out_has.write(i32::from(has)) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's record or NULL, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Looks at a group without opening it: sysfs `enable` of its functions. Needs no device node and no privilege, disturbs
/// nobody. A single look knows no baseline: a count may be left over from before the bind; a watch knows.
///
/// Fails with VFP_MISSING when there is no such group.
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
        record::given(out_peek, "out_peek")?;
        let peek = peek_number(host.with_buffer(|root, buffer| root.peek(GroupId(group), buffer))?);
        // SAFETY: not NULL, and the caller's to be written.
        unsafe { out_peek.write(peek) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Opens the group's node for a moment. While it is open **another process' own open fails with EBUSY**: do not call this in
/// a loop on a free group, and never on one that a virtual machine is about to open. A held group is not disturbed.
///
/// Can block for seconds, while the kernel resets a device of the group: see vfp_probe_within(). Whatever the open says is
/// VFP_OK with a state; the call fails only for its arguments.
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
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_occupancy, "out_occupancy") }?;
        slot.push(&host.root.probe(GroupId(group)).into());
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// The same on a helper thread, waiting at most `timeout_ms` milliseconds for the answer: later it is VFP_STATE_UNKNOWN with
/// VFP_WHY_LATE. At most one open a group and four in all are under way at once in a root; who asks for a group whose open is
/// under way already, for another caller or because it hangs, is told VFP_WHY_LATE at once.
///
/// After VFP_WHY_LATE an open that has begun goes on and **may have the group for a moment later**, even when the root was
/// closed; one that has not begun is not made any more. A `timeout_ms` of 0 is always late.
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
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_occupancy, "out_occupancy") }?;
        let deadline = Duration::from_millis(timeout_ms.into());
        slot.push(&host.prober.probe(GroupId(group), deadline).into());
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
