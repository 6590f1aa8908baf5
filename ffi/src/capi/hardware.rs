//! The state of a function's hardware.

use super::record::{Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Failure, Outcome, VFP_OK, guard, vfp_error, vfp_status};
use super::text;
use std::ffi::c_char;
use vfio_probe::{DeviceId, Presence};

/// The registers were not read: the read would have woken the function or the bridge above it, or
/// the kernel does not report their power states (before 5.11).
pub const VFP_PRESENCE_NOT_CHECKED: i32 = 0;
/// The function responds.
pub const VFP_PRESENCE_PRESENT: i32 = 1;
/// The registers read as all ones: the function, or a bridge above it, has fallen off the bus.
pub const VFP_PRESENCE_LOST: i32 = 2;

/// The kernel does not count the errors of this function.
pub const VFP_NO_ERROR_COUNT: u64 = u64::MAX;

/// The state of a function's hardware.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_hardware {
    /// Number of fatal PCIe errors since the function was added, or VFP_NO_ERROR_COUNT.
    pub fatal_errors: u64,
    /// A VFP_PRESENCE_* value.
    pub presence: i32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<vfp_hardware>() == 16);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_hardware {}

pub(super) fn presence_number(presence: Presence) -> i32 {
    match presence {
        Presence::Present => VFP_PRESENCE_PRESENT,
        Presence::Lost => VFP_PRESENCE_LOST,
        // Neither present nor lost.
        _ => VFP_PRESENCE_NOT_CHECKED,
    }
}

/// Reads whether the hardware of a PCI function responds, and how many fatal PCIe errors it had.
/// `address` is a PCI address; a mediated device has no hardware of its own.
///
/// Reads the first registers of the function (/sys/bus/pci/devices/ADDRESS/config), unless that
/// would wake a device. Blocks while the kernel resets the function, for seconds. Returns
/// VFP_INVALID if `address` is no PCI address, and VFP_MISSING if there is no such function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_hardware_read(
    root: *const vfp_root,
    address: *const c_char,
    size: usize,
    out_hardware: *mut vfp_hardware,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        // SAFETY: the caller's text, by the header's conventions.
        let id = DeviceId::parse(unsafe { text::required(address, "address") }?);
        let Some(DeviceId::Pci(address)) = id else {
            return Err(Failure::Argument("address", "must be a PCI address such as 0000:3b:00.0"));
        };
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_hardware, "out_hardware") }?;
        let read = host.root.hardware(address)?;
        slot.push(&vfp_hardware {
            fatal_errors: read.fatal_errors.unwrap_or(VFP_NO_ERROR_COUNT),
            presence: presence_number(read.presence),
            reserved: 0,
        });
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
