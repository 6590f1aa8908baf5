//! The root handle: the directory that contains sys, dev and proc.

use super::status::{Failure, Outcome, VFP_OK, guard, guard_value, vfp_error, vfp_status};
use super::{record, text};
use crate::host::Host;
use std::ffi::{OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A directory that contains sys, dev and proc: `/`, a host's root file system mounted into a
/// container, or a test tree. Any number of threads may use a root at the same time.
pub struct vfp_root(pub(super) Host);

/// Opens a root; NULL as `path` means `/`. Close it with vfp_root_close(). Watches of the root
/// outlive it.
///
/// Returns VFP_MISSING, VFP_DENIED, VFP_TOO_LONG or VFP_SYSTEM (ENOTDIR and others) if the
/// directory cannot be opened. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_root_open(
    path: *const c_char,
    out_root: *mut *mut vfp_root,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        record::require(out_root, "out_root")?;
        // SAFETY: the caller's text, by the header's conventions.
        let path = unsafe { text::optional(path) }.unwrap_or(b"/");
        let root = Box::new(vfp_root(Host::open(Path::new(OsStr::from_bytes(path)))?));
        // SAFETY: not NULL, and writable by the header's conventions.
        unsafe { out_root.write(Box::into_raw(root)) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Closes a root and sets `*root` to NULL: a second close has no effect, and a later use returns
/// VFP_INVALID. No other thread may be in a call with the root. Does not wait for an outstanding
/// probe that hangs in the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_root_close(root: *mut *mut vfp_root) {
    guard_value((), || {
        if root.is_null() {
            return;
        }
        // SAFETY: not NULL, so the caller's variable by the header's conventions.
        let handle = unsafe { root.replace(std::ptr::null_mut()) };
        if !handle.is_null() {
            // SAFETY: not NULL, so from vfp_root_open(), and the caller's variable was the only reference.
            drop(unsafe { Box::from_raw(handle) });
        }
    });
}

/// Returns the state behind a root handle.
///
/// # Safety
/// `root` is NULL or an open root that is not closed while the result is in use.
pub(super) unsafe fn host<'a>(root: *const vfp_root) -> Result<&'a Host, Failure> {
    // SAFETY: this function's contract.
    unsafe { root.as_ref() }
        .map(|root| &root.0)
        .ok_or(Failure::Argument("root", "the handle is NULL or closed"))
}
