//! Status codes, the error record, and the wall that no panic passes.

use super::text;
use std::ffi::c_char;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vfio_probe::{Error, ErrorKind};

/// What a function returns. Negative: it failed, and `out_error` says why. Numbers that this header does not name may come
/// from a newer library: treat them by their sign.
pub type vfp_status = i32;

/// Done.
pub const VFP_OK: vfp_status = 0;
/// Done as far as the array or buffer allowed: the count says how much room all of it needs.
pub const VFP_MORE: vfp_status = 1;
/// There is nothing new.
pub const VFP_NOTHING: vfp_status = 2;
/// An argument that makes no sense: NULL, a size of 0, a text that is no id. The error's text names it.
pub const VFP_INVALID: vfp_status = -1;
/// What was asked for is not there (ENOENT, ENODEV, ENXIO).
pub const VFP_MISSING: vfp_status = -2;
/// The kernel does not let us (EACCES, EPERM).
pub const VFP_DENIED: vfp_status = -3;
/// It is there, but its content is not what the kernel writes.
pub const VFP_MALFORMED: vfp_status = -4;
/// It is longer than the kernel's limit for it.
pub const VFP_TOO_LONG: vfp_status = -5;
/// Any other errno.
pub const VFP_SYSTEM: vfp_status = -6;
/// A defect of this library, caught before it could harm the caller; please report it.
pub const VFP_PANIC: vfp_status = -7;
/// Asked for something that only a newer library knows.
pub const VFP_UNSUPPORTED: vfp_status = -8;

/// No group: of a device without IOMMU, an error that is about no group, an event that is about a device.
pub const VFP_NO_GROUP: u32 = u32::MAX;

/// Why a function failed. This record never grows: no size goes with it. Written only on failure; `out_error` may be NULL.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_error {
    /// The status that the function returned.
    pub status: vfp_status,
    /// The kernel's errno, 0 where no system call failed.
    pub os_errno: i32,
    /// The group that it is about, or VFP_NO_GROUP.
    pub group: u32,
    /// 0.
    pub reserved: u32,
    /// The device that it is about, or "".
    pub device: [c_char; 40],
    /// What went wrong, for people: one line without a newline, cut if it does not fit.
    pub text: [c_char; 200],
}

const _: () = assert!(size_of::<vfp_error>() == 256);

/// Why a call fails.
pub(super) enum Failure {
    /// The core's own error.
    Core(Error),
    /// An argument: its name, and what is wrong with it.
    Argument(&'static str, &'static str),
    /// A size, option or flag of a newer header.
    Unsupported(&'static str),
    /// A file that is not below a root.
    File(&'static str, std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

/// What a call gives: a status that is no failure, or a failure.
pub(super) type Outcome = Result<vfp_status, Failure>;

/// The status of a core error.
pub(super) fn status_of(kind: ErrorKind) -> vfp_status {
    match kind {
        ErrorKind::Missing => VFP_MISSING,
        ErrorKind::Denied => VFP_DENIED,
        ErrorKind::Malformed => VFP_MALFORMED,
        ErrorKind::TooLong => VFP_TOO_LONG,
        // Kinds to come are errnos of some sort to an older header.
        _ => VFP_SYSTEM,
    }
}

/// Runs a call; a failure is written to `out_error`, a panic becomes a status.
///
/// # Safety
/// `out_error` is NULL or points to a record that may be written.
pub(super) unsafe fn guard(out_error: *mut vfp_error, call: impl FnOnce() -> Outcome) -> vfp_status {
    let mut wrong = None;
    // What a panicking call leaves behind is behind locks whose poison is looked through.
    let told = catch_unwind(AssertUnwindSafe(|| {
        call().unwrap_or_else(|failure| wrong.insert(error_of(&failure)).status)
    }));
    let status = told.unwrap_or_else(|_panic| {
        let text = "a defect of vfio-probe: the call panicked; please report it";
        wrong.insert(error(VFP_PANIC, 0, &text)).status
    });
    if let (Some(wrong), false) = (wrong, out_error.is_null()) {
        // SAFETY: not NULL, so by this function's contract a record that may be written.
        unsafe { out_error.write(wrong) };
    }
    status
}

/// The same for functions that tell only whether they failed.
pub(super) fn guard_value<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(otherwise)
}

fn error_of(failure: &Failure) -> vfp_error {
    match failure {
        Failure::Core(core) => vfp_error {
            group: core.group.map_or(VFP_NO_GROUP, |group| group.0),
            device: core.device.map_or([0; 40], |device| text::shown(&device)),
            ..error(status_of(core.kind), core.errno, core)
        },
        Failure::Argument(name, wrong) => error(VFP_INVALID, 0, &format_args!("{name}: {wrong}")),
        Failure::File(what, wrong) => {
            let status = match wrong.kind() {
                std::io::ErrorKind::NotFound => VFP_MISSING,
                std::io::ErrorKind::PermissionDenied => VFP_DENIED,
                std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => VFP_MALFORMED,
                _ => VFP_SYSTEM,
            };
            error(status, wrong.raw_os_error().unwrap_or(0), &format_args!("{what}: {wrong}"))
        }
        Failure::Unsupported(what) => error(
            VFP_UNSUPPORTED,
            0,
            &format_args!("{what}: unknown to version {}", env!("CARGO_PKG_VERSION")),
        ),
    }
}

fn error(status: vfp_status, os_errno: i32, shown: &dyn Display) -> vfp_error {
    vfp_error {
        status,
        os_errno,
        group: VFP_NO_GROUP,
        reserved: 0,
        device: [0; 40],
        text: text::shown(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status() {
        let mut failure = error(VFP_OK, 0, &"");
        // SAFETY: a record of our own.
        let status = unsafe { guard(&raw mut failure, || unreachable!("on purpose")) };
        assert_eq!((status, failure.status), (VFP_PANIC, VFP_PANIC));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { guard(std::ptr::null_mut(), || unreachable!("on purpose")) }, VFP_PANIC);
        assert_eq!(guard_value(-3, || unreachable!("on purpose")), -3);
    }

    #[test]
    fn each_kind_has_a_status_of_its_own() {
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
