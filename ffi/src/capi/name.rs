//! Names of devices from a pci.ids file.

use super::record::{self, Record, Slots};
use super::status::{Failure, Outcome, VFP_OK, guard, vfp_error, vfp_status};
use super::text;
use std::ffi::{OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use vfio_probe::names;

/// A device model.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_pci_id {
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
}

/// A device model's name.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_name {
    /// As the file has it (`GH100 [H100 SXM5 80GB]`), UTF-8 without control characters, cut if it does not fit; "" if it has
    /// none.
    pub text: [c_char; 160],
}

// SAFETY: repr(C), one array of bytes.
unsafe impl Record for vfp_name {
    const LEAST: usize = size_of::<vfp_name>();
}

/// Looks up `count` models in one pass over a pci.ids file, and writes a name for each into `out_names`, in their order.
/// NULL as `path` is the first of /usr/pci.ids, /usr/share/misc/pci.ids and /usr/share/hwdata/pci.ids. A model that the file
/// does not name gets "".
///
/// Fails as the open or a read of the file does, and for what is no regular file or longer than 64 MiB. Reads up to 1.5 MB
/// of an ordinary one: ask for all models at once, and keep the answer.
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
        names::open(path)
            .and_then(|mut file| {
                names::find(&mut file, &wanted, &mut |index, name| {
                    if let Some(slot) = found.get_mut(index) {
                        slot.text = text::shown(&name);
                    }
                })
            })
            .map_err(|error| Failure::File("pci.ids", error))?;
        found.iter().for_each(|name| slots.push(name));
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
