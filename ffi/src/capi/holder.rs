//! Holders: the processes that have a group or a device of it open.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Outcome, guard, vfp_error, vfp_status};
use super::text;
use std::ffi::c_char;
use vfio_probe::holders::Via;
use vfio_probe::{GroupId, Holder, ScanCoverage};

/// A descriptor of the group's device node, /dev/vfio/N.
pub const VFP_VIA_GROUP: i32 = 0;
/// A device descriptor obtained from the group (VFIO_GROUP_GET_DEVICE_FD).
pub const VFP_VIA_DEVICE: i32 = 1;
/// A descriptor of the device's own character device, /dev/vfio/devices/vfioN.
pub const VFP_VIA_CDEV: i32 = 2;

/// A process that has a group or a device of it open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_holder {
    /// Start time in clock ticks after boot (proc(5), stat field 22). Together with `pid` it identifies the process
    /// until the next boot.
    pub start_time: u64,
    /// The held group.
    pub group: u32,
    /// Process id in the pid namespace of the root's `proc`.
    pub pid: u32,
    /// A VFP_VIA_* value: the kind of descriptor.
    pub via: i32,
    /// Always 0.
    pub reserved: u32,
    /// Command name (/proc/PID/comm), at most 15 characters. The process can change it. Characters other than printable
    /// ASCII are replaced by `?`.
    pub command: [c_char; 24],
    /// UID of the pod in the name of the process's cgroup, else "".
    pub pod_uid: [c_char; 40],
    /// Container id in the name of the process's cgroup, 64 hex digits, else "".
    pub container_id: [c_char; 72],
}

const _: () = assert!(size_of::<vfp_holder>() == 160);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_holder {
    const MIN_SIZE: usize = std::mem::offset_of!(vfp_holder, command);
}

/// The coverage of a scan for holders. The list of holders may be incomplete if `unreadable` or `unattributed` is
/// greater than 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_scan_coverage {
    /// Number of processes in `proc`.
    pub processes: u32,
    /// Number of these processes with descriptors that could not be read. Processes of other users need CAP_SYS_PTRACE.
    pub unreadable: u32,
    /// Number of open VFIO device descriptors for which the kernel does not report the device (kernels before 6.18).
    pub unattributed: u32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<vfp_scan_coverage>() == 16);

// SAFETY: repr(C), four numbers of the same size, so there is no padding.
unsafe impl Record for vfp_scan_coverage {
    const MIN_SIZE: usize = std::mem::offset_of!(vfp_scan_coverage, reserved);
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

impl From<ScanCoverage> for vfp_scan_coverage {
    fn from(coverage: ScanCoverage) -> Self {
        let ScanCoverage { processes, unreadable, unattributed, .. } = coverage;
        Self { processes, unreadable, unattributed, reserved: 0 }
    }
}

/// Finds the processes that hold any of the groups. Writes the first `capacity` records and sets `*out_count` to the
/// number of records; a process that holds two groups has two. `out_coverage` receives the coverage of the scan and may
/// be NULL.
///
/// Reads /proc of all processes, which takes milliseconds on a busy host: pass all groups in one call, and call when
/// something changed. Opens no device. Processes of other users need CAP_SYS_PTRACE. Fails if `proc` cannot be listed.
/// Returns VFP_TRUNCATED as vfp_scan() does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_holders(
    root: *const vfp_root,
    groups: *const u32,
    group_count: usize,
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
        let host = unsafe { host(root) }?;
        // SAFETY: the caller's numbers, by the header's conventions.
        let groups: Vec<GroupId> = unsafe { record::items(groups, "groups", ("group_count", group_count)) }?
            .iter()
            .copied()
            .map(GroupId)
            .collect();
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_holders, "out_holders") }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut coverage = unsafe { coverage_slot(coverage_size, out_coverage) }?;
        let found = host.root.holders(&groups, &mut |holder| slots.push(&vfp_holder::from(&holder)))?;
        if let Some(coverage) = &mut coverage {
            coverage.push(&found.into());
        }
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Returns the slot for the coverage, or None if the caller passed NULL.
///
/// # Safety
/// `out_coverage` is NULL, or `size` bytes from it are writable while the result is in use.
pub(super) unsafe fn coverage_slot(
    size: usize,
    out_coverage: *mut vfp_scan_coverage,
) -> Result<Option<Slots<vfp_scan_coverage>>, super::status::Failure> {
    if out_coverage.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, so a writable record by this function's contract.
    unsafe { Slots::one(("coverage_size", size), out_coverage, "out_coverage") }.map(Some)
}
