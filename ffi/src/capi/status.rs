//! Status codes, the error record, and the conversion of panics into a status.

use super::text;
use std::ffi::c_char;
use std::fmt::Display;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use vfio_probe::error::errno_text;
use vfio_probe::{DeviceId, Error, ErrorKind, GroupId};

/// The result of a function: 0 or greater on success, negative on failure; `out_error` then
/// describes the failure. A newer library may return values that this header does not name:
/// evaluate those by their sign.
pub type vfp_status = i32;

/// The call succeeded.
pub const VFP_OK: vfp_status = 0;
/// The call succeeded, but the array is too small: `*out_count` is the number of records that
/// exist.
pub const VFP_TRUNCATED: vfp_status = 1;
/// There is no event at present (vfp_watch_next()).
pub const VFP_NO_EVENT: vfp_status = 2;
/// The time was up before the condition was true (vfp_watch_wait()).
pub const VFP_TIMED_OUT: vfp_status = 3;
/// An argument is invalid: NULL, a size of 0, a text that is not an id. The error text names the
/// argument.
pub const VFP_INVALID: vfp_status = -1;
/// The device, group, file or directory does not exist (ENOENT, ENODEV, ENXIO).
pub const VFP_MISSING: vfp_status = -2;
/// The kernel denied the access (EACCES, EPERM).
pub const VFP_DENIED: vfp_status = -3;
/// The content of a file is not in the format that the kernel writes.
pub const VFP_MALFORMED: vfp_status = -4;
/// A text exceeds the kernel's limit for it (E2BIG, ENAMETOOLONG).
pub const VFP_TOO_LONG: vfp_status = -5;
/// A system call failed with any other errno.
pub const VFP_SYSTEM: vfp_status = -6;
/// The library panicked because of a bug. The panic was caught; please report it.
pub const VFP_PANIC: vfp_status = -7;
/// The call uses an option or flag that only a newer library supports.
pub const VFP_UNSUPPORTED: vfp_status = -8;

/// No group: in the record of a device without an IOMMU, an error without a group, an event about
/// a device. As an argument it is invalid in every call.
pub const VFP_NO_GROUP: u32 = u32::MAX;
/// All groups: an argument of vfp_snapshot_holders(), and of vfp_watch_wait() for
/// VFP_WAIT_EVENT. No group has this number: the kernel's numbers end at INT_MAX.
pub const VFP_ALL_GROUPS: u32 = 0xffff_fffe;

/// The description of a failure. This record never grows, so it is passed without a size. It is
/// written on failure only, and a text in it only up to its NUL; `out_error` may be NULL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_error {
    /// The status that the function returned.
    pub status: vfp_status,
    /// The kernel's errno, or 0 if no system call failed.
    pub os_errno: i32,
    /// The group concerned, or VFP_NO_GROUP.
    pub group: u32,
    /// Always 0.
    pub reserved: u32,
    /// The device concerned, or "".
    pub device: [c_char; 40],
    /// Error message for people: one line of UTF-8 without control characters. A path in it is
    /// whole.
    pub text: [c_char; 4552],
    /// The file or directory concerned, or "". A path that the caller passed is as it was, also if
    /// it is not UTF-8. Any other is relative to the root, as in
    /// sys/bus/pci/devices/0000:3b:00.0/numa_node. Truncated to the field.
    pub path: [c_char; 4096],
}

const _: () = assert!(size_of::<vfp_error>() == 8704);

/// The cause of a failed call.
pub(super) enum Failure {
    /// An error of the core.
    Core(Error),
    /// An invalid argument: its name and the violated rule.
    Argument(&'static str, &'static str),
    /// An array that is NULL although the argument named second is greater than 0.
    NullArray(&'static str, &'static str),
    /// A group that a watch or snapshot does not contain.
    NoSuchGroup(GroupId),
    /// An option or flag of a newer header.
    Unsupported(&'static str),
    /// A file outside the root: its description, its path and the I/O error.
    File(&'static str, PathBuf, std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

/// Returns the caller's group; fails for VFP_NO_GROUP.
pub(super) fn group_argument(group: u32) -> Result<GroupId, Failure> {
    if group == VFP_NO_GROUP {
        let rule = "must not be VFP_NO_GROUP; a device without an IOMMU has no group";
        return Err(Failure::Argument("group", rule));
    }
    Ok(GroupId(group))
}

/// Returns the caller's groups; fails if VFP_NO_GROUP is among them.
pub(super) fn group_arguments(groups: &[u32]) -> Result<Vec<GroupId>, Failure> {
    if groups.contains(&VFP_NO_GROUP) {
        let rule = "must not contain VFP_NO_GROUP; a device without an IOMMU has no group";
        return Err(Failure::Argument("groups", rule));
    }
    Ok(groups.iter().copied().map(GroupId).collect())
}

/// The number of a value of the core that has no constant. Its word is `?`, and a program compares
/// it with none of the constants.
pub(super) const UNNAMED: i32 = -1;

/// The result of a call: a status of 0 or greater, or the cause of the failure.
pub(super) type Outcome = Result<vfp_status, Failure>;

/// Returns the status for a kind of core error.
pub(super) fn status_of(kind: ErrorKind) -> vfp_status {
    match kind {
        ErrorKind::Missing => VFP_MISSING,
        ErrorKind::Denied => VFP_DENIED,
        ErrorKind::Malformed => VFP_MALFORMED,
        ErrorKind::TooLong => VFP_TOO_LONG,
        // `ErrorKind` is non-exhaustive: report future kinds as a system error.
        _ => VFP_SYSTEM,
    }
}

/// Runs a call and returns its status. Writes a failure to `out_error` and converts a panic into
/// VFP_PANIC. Does not touch `out_error` otherwise: clearing it would cost more than many a call.
///
/// # Safety
/// `out_error` is NULL or points to a writable record.
pub(super) unsafe fn guard(out_error: *mut vfp_error, call: impl FnOnce() -> Outcome) -> vfp_status {
    // Unwind-safe: shared state is behind locks, and a poisoned lock is still usable.
    let result = catch_unwind(AssertUnwindSafe(|| {
        call().unwrap_or_else(|failure| {
            // SAFETY: this function's contract.
            unsafe { report(&failure, out_error) }
        })
    }));
    result.unwrap_or_else(|_panic| {
        let text = "libvfio_probe panicked; this is a bug in the library, please report it";
        // SAFETY: this function's contract.
        unsafe { Report::new(VFP_PANIC, &text).write(out_error) }
    })
}

/// Runs a call that has no error record, and returns `otherwise` if it panics.
pub(super) fn guard_value<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(otherwise)
}

/// Writes a failure to `out_error` and returns its status.
///
/// # Safety
/// `out_error` is NULL or points to a writable record.
#[cold]
unsafe fn report(failure: &Failure, out_error: *mut vfp_error) -> vfp_status {
    let write = |report: Report<'_>| {
        // SAFETY: this function's contract.
        unsafe { report.write(out_error) }
    };
    match failure {
        Failure::Core(core) => {
            let path = core.path();
            write(Report {
                errno: core.errno,
                group: core.group,
                device: core.device,
                path: path.as_ref().map(|path| path.as_os_str().as_bytes()),
                ..Report::new(status_of(core.kind), core)
            })
        }
        Failure::Argument(name, rule) => write(Report::new(VFP_INVALID, &format_args!("{name}: {rule}"))),
        Failure::NullArray(name, counter) => {
            let text = format_args!("{name}: must not be NULL because {counter} is greater than 0");
            write(Report::new(VFP_INVALID, &text))
        }
        Failure::NoSuchGroup(group) => {
            let text = format_args!("group {group}: no device of it is bound to a VFIO driver");
            write(Report { group: Some(*group), ..Report::new(VFP_MISSING, &text) })
        }
        Failure::File(what, path, failed) => {
            let status = match failed.kind() {
                std::io::ErrorKind::NotFound => VFP_MISSING,
                std::io::ErrorKind::PermissionDenied => VFP_DENIED,
                std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => VFP_MALFORMED,
                _ => VFP_SYSTEM,
            };
            let (errno, path) = (failed.raw_os_error(), path.as_os_str().as_bytes());
            let reason = errno.map_or_else(|| failed.to_string(), errno_text);
            let text = format_args!("{what} {}: {reason}", text::escaped(path));
            write(Report { errno: errno.unwrap_or(0), path: Some(path), ..Report::new(status, &text) })
        }
        Failure::Unsupported(what) => {
            let text = format_args!("{what}: not supported by libvfio_probe {}", env!("CARGO_PKG_VERSION"));
            write(Report::new(VFP_UNSUPPORTED, &text))
        }
    }
}

/// What goes into an error record.
struct Report<'a> {
    status: vfp_status,
    errno: i32,
    group: Option<GroupId>,
    device: Option<DeviceId>,
    path: Option<&'a [u8]>,
    text: &'a dyn Display,
}

impl<'a> Report<'a> {
    fn new(status: vfp_status, text: &'a dyn Display) -> Self {
        Self { status, errno: 0, group: None, device: None, path: None, text }
    }

    /// Writes the record in place, and of each text only what is used. Returns the status.
    ///
    /// # Safety
    /// `out_error` is NULL or points to a writable record.
    unsafe fn write(self, out_error: *mut vfp_error) -> vfp_status {
        // SAFETY: not NULL, so a writable record by this function's contract. A field may be
        // uninitialized, which MaybeUninit allows.
        let Some(out) = (unsafe { out_error.cast::<MaybeUninit<vfp_error>>().as_mut() }) else {
            return self.status;
        };
        let out = out.as_mut_ptr();
        // SAFETY: the fields lie in the record, which is writable.
        unsafe {
            (&raw mut (*out).status).write(self.status);
            (&raw mut (*out).os_errno).write(self.errno);
            (&raw mut (*out).group).write(self.group.map_or(VFP_NO_GROUP, |group| group.0));
            (&raw mut (*out).reserved).write(0);
            match &self.device {
                Some(device) => text::write(&raw mut (*out).device, device),
                None => text::write(&raw mut (*out).device, &""),
            }
            text::write(&raw mut (*out).text, self.text);
            text::write_bytes(&raw mut (*out).path, self.path.unwrap_or_default());
        }
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_becomes_a_status() {
        let mut failure = MaybeUninit::<vfp_error>::uninit();
        // SAFETY: a local record.
        let status = unsafe { guard(failure.as_mut_ptr(), || unreachable!("on purpose")) };
        // SAFETY: a failed call writes all numbers.
        let written = unsafe { (&raw const (*failure.as_ptr()).status).read() };
        assert_eq!((status, written), (VFP_PANIC, VFP_PANIC));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { guard(std::ptr::null_mut(), || unreachable!("on purpose")) }, VFP_PANIC);
        assert_eq!(guard_value(-3, || unreachable!("on purpose")), -3);
    }

    #[test]
    fn each_error_kind_has_its_own_status() {
        let kinds = [
            ErrorKind::Missing,
            ErrorKind::Denied,
            ErrorKind::Malformed,
            ErrorKind::TooLong,
            ErrorKind::System,
        ];
        let mut statuses: Vec<_> = kinds.into_iter().map(status_of).collect();
        statuses.dedup();
        assert_eq!(statuses, [VFP_MISSING, VFP_DENIED, VFP_MALFORMED, VFP_TOO_LONG, VFP_SYSTEM]);
    }
}
