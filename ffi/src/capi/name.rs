//! Names of device models.

use super::record::{self, Record, Slots};
use super::status::{Failure, Outcome, VFP_OK, guard, vfp_error, vfp_status};
use super::text;
use std::ffi::{OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use vfio_probe::names;

/// A device model by its PCI ids.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_pci_id {
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
}

/// The name of a device model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_name {
    /// Name as in pci.ids (`GH100 [H100 SXM5 80GB]`): UTF-8 without control characters, truncated
    /// to the field; "" if the model has no name.
    pub text: [c_char; 160],
}

// SAFETY: repr(C), one array of bytes.
unsafe impl Record for vfp_name {}

/// Looks up the names of `count` device models and writes one for each into `out_names`, in the
/// same order. A model without a name gets "".
///
/// If `path` is NULL, the names come from the table in the library: the pci.ids of 2025-07-11.
/// Then the call reads no file and does not block. Otherwise they come from the pci.ids file
/// `path` only, which one call reads once (about 1.5 MB): pass all models in one call.
/// Distributions install the file as /usr/share/misc/pci.ids or /usr/share/hwdata/pci.ids.
///
/// Returns VFP_MISSING, VFP_DENIED or VFP_SYSTEM if the file cannot be opened or read, and
/// VFP_MALFORMED if it is not a regular file or is larger than 64 MiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_names(
    path: *const c_char,
    ids: *const vfp_pci_id,
    count: usize,
    size: usize,
    out_names: *mut vfp_name,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's text, by the header's conventions.
        let path = unsafe { text::optional(path) }.map(|path| Path::new(OsStr::from_bytes(path)));
        // SAFETY: the caller's numbers, by the header's conventions.
        let ids = unsafe { record::items(ids, "ids", ("count", count)) }?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::counted(size, ("count", count), out_names, "out_names") }?;
        let wanted: Vec<(u16, u16)> = ids.iter().map(|id| (id.vendor, id.device)).collect();
        let mut found = vec![vfp_name { text: [0; 160] }; wanted.len()];
        let mut record = |index: usize, name: &str| {
            if let Some(slot) = found.get_mut(index) {
                slot.text = text::shown(&name);
            }
        };
        match path {
            None => wanted.iter().enumerate().for_each(|(index, &(vendor, device))| {
                names::built_in(vendor, device).iter().for_each(|name| record(index, name.as_str()));
            }),
            Some(path) => names::find(&mut names::open(Some(path))?, &wanted, &mut record)
                .map_err(|error| Failure::File("pci.ids", path.into(), error))?,
        }
        found.iter().for_each(|name| slots.push(name));
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
