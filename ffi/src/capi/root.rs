//! The root handle: the directory below which everything is looked up.

use super::status::{Failure, Outcome, VFP_OK, guard, guard_value, vfp_error, vfp_status};
use super::{record, text};
use crate::host::Host;
use std::ffi::{OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A directory that holds sys, dev and proc: `/`, a host's tree mounted into a container, or a test's folder. Any number of
/// threads may use one at the same time.
pub struct vfp_root(pub(super) Host);

/// Opens a root. NULL as `path` is `/`. Give it back with vfp_root_close(); watches that come from it outlive it.
///
/// Fails with VFP_MISSING or VFP_DENIED. Does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_root_open(
    path: *const c_char,
    out_root: *mut *mut vfp_root,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        record::given(out_root, "out_root")?;
        // SAFETY: the caller's text, by the header's conventions.
        let path = unsafe { text::optional(path) }.unwrap_or(b"/");
        let root = Box::new(vfp_root(Host::open(Path::new(OsStr::from_bytes(path)))?));
        // SAFETY: not NULL, and the caller's to be written.
        unsafe { out_root.write(Box::into_raw(root)) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Closes a root and makes `*root` NULL, so that a second close does nothing and a later use is VFP_INVALID. No other thread
/// may be in a call with it. Waits for no open that hangs in the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_root_close(root: *mut *mut vfp_root) {
    guard_value((), || {
        if root.is_null() {
            return;
        }
        // SAFETY: not NULL, so the caller's variable.
        let handle = unsafe { root.replace(std::ptr::null_mut()) };
        if !handle.is_null() {
            // SAFETY: not NULL, so from vfp_root_open(), and nobody else has it any more.
            drop(unsafe { Box::from_raw(handle) });
        }
    });
}

/// The root behind a handle.
///
/// # Safety
/// `root` is NULL or an open root that nobody closes meanwhile.
pub(super) unsafe fn host<'a>(root: *const vfp_root) -> Result<&'a Host, Failure> {
    // SAFETY: this function's contract.
    unsafe { root.as_ref() }.map(|root| &root.0).ok_or(Failure::Argument("root", "is NULL, or closed"))
}
