//! Holders: the processes that have a group or a device of it open.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Outcome, UNNAMED, group_arguments, guard, vfp_error, vfp_status};
use super::text;
use std::ffi::c_char;
use std::time::{SystemTime, UNIX_EPOCH};
use vfio_probe::holders::Via;
use vfio_probe::{Holder, InPod, PidNamespace, ScanCoverage};

/// A descriptor of the group's device node, /dev/vfio/N.
pub const VFP_VIA_GROUP: i32 = 0;
/// A device descriptor obtained from the group (VFIO_GROUP_GET_DEVICE_FD).
pub const VFP_VIA_DEVICE: i32 = 1;
/// A descriptor of the device's own character device, /dev/vfio/devices/vfioN.
pub const VFP_VIA_CDEV: i32 = 2;

/// It is unknown whether the process is in a pod: it is in the sandbox of a container runtime and
/// its cgroup names no pod, as a VM of Kata, or its cgroup cannot be read. It never shows that a
/// pod has ended.
pub const VFP_IN_POD_UNKNOWN: i32 = 0;
/// The process is in no pod.
pub const VFP_IN_POD_NO: i32 = 1;
/// The process is in the pod `pod_uid`.
pub const VFP_IN_POD_YES: i32 = 2;

/// `proc` does not show its pid namespace, or hides the processes of other users.
pub const VFP_PID_NAMESPACE_UNKNOWN: i32 = 0;
/// `proc` shows the host's pid namespace, which contains every process.
pub const VFP_PID_NAMESPACE_HOST: i32 = 1;
/// `proc` shows another pid namespace, as in a container. Processes outside of it are invisible.
pub const VFP_PID_NAMESPACE_FOREIGN: i32 = 2;

/// The user of a process is unknown.
pub const VFP_NO_UID: u32 = u32::MAX;

/// A process that has a group or a device of it open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_holder {
    /// Start time in clock ticks after boot (proc(5), stat field 22). Together with `pid` it
    /// identifies the process until the next boot.
    pub start_time: u64,
    /// The same as seconds since 1970 by the wall clock, or -1. It follows corrections of the
    /// clock, as ps(1) does.
    pub started: i64,
    /// The held group.
    pub group: u32,
    /// Process id in the pid namespace of the root's `proc`.
    pub pid: u32,
    /// Effective user id in the user namespace of this process, or VFP_NO_UID.
    pub uid: u32,
    /// A VFP_VIA_* value: the kind of descriptor.
    pub via: i32,
    /// A VFP_IN_POD_* value.
    pub in_pod: i32,
    /// Always 0.
    pub reserved: u32,
    /// Command name (/proc/PID/comm), at most 15 characters. The process can change it.
    /// Characters other than printable ASCII are replaced by `?`.
    pub command: [c_char; 24],
    /// UID of the pod in the name of the process's cgroup for VFP_IN_POD_YES, else "".
    pub pod_uid: [c_char; 40],
    /// Container id in the name of the process's cgroup, 64 hex digits, else "".
    pub container_id: [c_char; 72],
}

const _: () = assert!(size_of::<vfp_holder>() == 176);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_holder {}

/// The coverage of a scan for holders. The list of holders may be incomplete unless `complete` is
/// 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_scan_coverage {
    /// Number of processes in `proc`.
    pub processes: u32,
    /// Number of these processes with descriptors that could not be read. Processes of other
    /// users need CAP_SYS_PTRACE.
    pub unreadable: u32,
    /// Number of open VFIO device descriptors for which the kernel does not report the device
    /// (kernels before 6.18).
    pub unattributed: u32,
    /// Number of processes that were not searched, because the budget of the scan ended. 0 for
    /// vfp_holders().
    pub unsearched: u32,
    /// A VFP_PID_NAMESPACE_* value: the pid namespace that was scanned.
    pub pid_namespace: i32,
    /// 1 if an empty list of holders means that no process holds the group, else 0.
    pub complete: i32,
}

const _: () = assert!(size_of::<vfp_scan_coverage>() == 24);

// SAFETY: repr(C), six numbers of the same size, so there is no padding.
unsafe impl Record for vfp_scan_coverage {}

pub(super) fn via_number(via: Via) -> i32 {
    match via {
        Via::Group => VFP_VIA_GROUP,
        Via::Device => VFP_VIA_DEVICE,
        Via::Cdev => VFP_VIA_CDEV,
        _ => UNNAMED,
    }
}

pub(super) fn in_pod_number(in_pod: InPod) -> i32 {
    match in_pod {
        InPod::Unknown => VFP_IN_POD_UNKNOWN,
        InPod::No => VFP_IN_POD_NO,
        InPod::Yes => VFP_IN_POD_YES,
    }
}

pub(super) fn pid_namespace_number(namespace: PidNamespace) -> i32 {
    match namespace {
        PidNamespace::Unknown => VFP_PID_NAMESPACE_UNKNOWN,
        PidNamespace::Host => VFP_PID_NAMESPACE_HOST,
        PidNamespace::Foreign => VFP_PID_NAMESPACE_FOREIGN,
    }
}

fn seconds(time: SystemTime) -> Option<i64> {
    time.duration_since(UNIX_EPOCH).ok()?.as_secs().try_into().ok()
}

impl From<&Holder> for vfp_holder {
    fn from(holder: &Holder) -> Self {
        Self {
            start_time: holder.start_time,
            started: holder.started().and_then(seconds).unwrap_or(-1),
            group: holder.group.0,
            pid: holder.pid,
            uid: holder.uid.unwrap_or(VFP_NO_UID),
            reserved: 0,
            via: via_number(holder.via),
            in_pod: in_pod_number(holder.container.in_pod),
            command: text::shown(&holder.command),
            pod_uid: text::shown_or_empty(holder.container.pod_uid),
            container_id: text::shown_or_empty(holder.container.container_id),
        }
    }
}

impl From<ScanCoverage> for vfp_scan_coverage {
    fn from(coverage: ScanCoverage) -> Self {
        let ScanCoverage { processes, unreadable, unattributed, unsearched, pid_namespace, .. } = coverage;
        let pid_namespace = pid_namespace_number(pid_namespace);
        let complete = i32::from(coverage.is_complete());
        Self { processes, unreadable, unattributed, unsearched, pid_namespace, complete }
    }
}

/// Finds the processes that hold any of the groups. Writes the first `capacity` records and sets
/// `*out_count` to the number of records; a process that holds two groups has two. `out_coverage`
/// receives the coverage of the scan and may be NULL.
///
/// Reads /proc of all processes, which takes milliseconds on a busy host: pass all groups in one
/// call, and call when something changed. Opens no device. Processes of other users need
/// CAP_SYS_PTRACE. Fails if `proc` cannot be listed. Returns VFP_TRUNCATED as vfp_scan() does.
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
        let groups = unsafe { record::items(groups, "groups", ("group_count", group_count)) }?;
        let groups = group_arguments(groups)?;
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
