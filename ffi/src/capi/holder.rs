//! Holders: which processes have groups open.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Outcome, guard, vfp_error, vfp_status};
use super::text;
use std::ffi::c_char;
use vfio_probe::holders::Via;
use vfio_probe::{GroupId, Holder, ScanCoverage};

/// By the group's node.
pub const VFP_VIA_GROUP: i32 = 0;
/// By a device obtained from the group.
pub const VFP_VIA_DEVICE: i32 = 1;
/// By a device's own node, /dev/vfio/devices/vfioN.
pub const VFP_VIA_CDEV: i32 = 2;

/// A process that has a group, or a device of it, open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_holder {
    /// Its start in clock ticks after boot (proc(5), stat field 22): with the pid it names a process for ever.
    pub start_time: u64,
    /// The group that it holds.
    pub group: u32,
    /// Its number in the root's proc.
    pub pid: u32,
    /// VFP_VIA_*.
    pub via: i32,
    /// 0.
    pub reserved: u32,
    /// Its command name, at most 15 characters, as it chose it; what is not printable ASCII is `?`.
    pub command: [c_char; 24],
    /// The uid of the pod that its cgroup names, else "".
    pub pod_uid: [c_char; 40],
    /// The container that its cgroup names, 64 hex digits, else "".
    pub container_id: [c_char; 72],
}

const _: () = assert!(size_of::<vfp_holder>() == 160);

// SAFETY: repr(C); the sum of its fields is its size, so there is no padding.
unsafe impl Record for vfp_holder {
    const LEAST: usize = std::mem::offset_of!(vfp_holder, command);
}

/// How far a look for holders reached. "Not found" is never "nobody" while `unreadable` or `unattributed` is not 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_looked {
    /// Processes seen.
    pub processes: u32,
    /// Of these, those whose descriptors could not be read: other users' without CAP_SYS_PTRACE.
    pub unreadable: u32,
    /// Device descriptors whose device the kernel does not tell (before 6.18).
    pub unattributed: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<vfp_looked>() == 16);

// SAFETY: repr(C), four numbers of one size.
unsafe impl Record for vfp_looked {
    const LEAST: usize = std::mem::offset_of!(vfp_looked, reserved);
}

pub(super) fn via_number(via: Via) -> i32 {
    match via {
        Via::Group => VFP_VIA_GROUP,
        Via::Device => VFP_VIA_DEVICE,
        Via::Cdev => VFP_VIA_CDEV,
    }
}

impl From<&Holder> for vfp_holder {
    fn from(holder: &Holder) -> Self {
        Self {
            start_time: holder.start_time,
            group: holder.group.0,
            pid: holder.pid,
            via: via_number(holder.via),
            reserved: 0,
            command: text::shown(&holder.command),
            pod_uid: text::shown_or_empty(holder.container.pod_uid),
            container_id: text::shown_or_empty(holder.container.container_id),
        }
    }
}

impl From<ScanCoverage> for vfp_looked {
    fn from(looked: ScanCoverage) -> Self {
        let ScanCoverage { processes, unreadable, unattributed } = looked;
        Self { processes, unreadable, unattributed, reserved: 0 }
    }
}

/// Tells which processes hold the groups: the first `capacity` of them are written, all are counted. `out_looked`, which may
/// be NULL, gets how far the look reached.
///
/// Reads proc of all processes: milliseconds on a busy host, so ask when something changed. Opens no device; other users'
/// processes need CAP_SYS_PTRACE. Fails when proc cannot be listed; VFP_MORE as vfp_scan().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_holders(
    root: *const vfp_root,
    groups: *const u32,
    group_count: usize,
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
        let host = unsafe { host(root) }?;
        // SAFETY: the caller's numbers, by the header's conventions.
        let groups: Vec<GroupId> = unsafe { record::items(groups, "groups", ("group_count", group_count)) }?
            .iter()
            .copied()
            .map(GroupId)
            .collect();
        record::given(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_holders, "out_holders") }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut far = unsafe { looked_slot(looked_size, out_looked) }?;
        let looked = host.root.holders(&groups, &mut |holder| slots.push(&vfp_holder::from(&holder)))?;
        if let Some(far) = &mut far {
            far.push(&looked.into());
        }
        // SAFETY: looked at above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// The caller's place for how far a look reached, unless it wants none.
///
/// # Safety
/// `out_looked` is NULL, or `size` bytes from it may be written for as long as the result is used.
pub(super) unsafe fn looked_slot(
    size: usize,
    out_looked: *mut vfp_looked,
) -> Result<Option<Slots<vfp_looked>>, super::status::Failure> {
    if out_looked.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, so by this function's contract a record that may be written.
    unsafe { Slots::one(("looked_size", size), out_looked, "out_looked") }.map(Some)
}
