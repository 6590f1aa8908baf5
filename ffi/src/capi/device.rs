//! Devices: their record, the scan, and one by its id.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Failure, Outcome, VFP_NO_GROUP, VFP_OK, guard, status_of, vfp_error, vfp_status};
use super::text;
use std::ffi::c_char;
use vfio_probe::device::Detail;
use vfio_probe::{Device, DeviceId, Error, Kind, Sriov};

/// A PCI function behind a driver built on vfio-pci-core.
pub const VFP_KIND_PCI: i32 = 0;
/// A mediated device.
pub const VFP_KIND_MDEV: i32 = 1;
/// A virtual function whose vendor's driver (`nvidia`) is itself a VFIO driver.
pub const VFP_KIND_VENDOR_VF: i32 = 2;

/// No part in SR-IOV.
pub const VFP_SRIOV_NONE: i32 = 0;
/// A physical function with virtual functions on.
pub const VFP_SRIOV_PHYSICAL: i32 = 1;
/// A virtual function.
pub const VFP_SRIOV_VIRTUAL: i32 = 2;

/// A device that is bound to a VFIO driver.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_device {
    /// PCI address (`0000:3b:00.0`) or mdev uuid; "" for a broken entry that names none.
    pub id: [c_char; 40],
    /// VFP_OK, or why this device could not be read: then only `id`, `os_errno` and `problem` say anything. One bad device
    /// never costs another.
    pub status: vfp_status,
    /// The kernel's errno for a broken device, else 0.
    pub os_errno: i32,
    /// PCI vendor id; of a mediated device its parent's, 0 when the parent is no PCI function.
    pub vendor: u16,
    /// PCI device id; of a mediated device its parent's.
    pub device: u16,
    /// PCI subsystem vendor id, 0 for none.
    pub subsystem_vendor: u16,
    /// PCI subsystem id, 0 for none.
    pub subsystem_device: u16,
    /// PCI class, 24 bits: 0x030200 is a 3D controller.
    pub class_code: u32,
    /// IOMMU group, or VFP_NO_GROUP.
    pub group: u32,
    /// NUMA node, -1 for unknown.
    pub numa_node: i32,
    /// N of its /dev/vfio/devices/vfioN, -1 for none.
    pub cdev: i32,
    /// VFP_KIND_*.
    pub kind: i32,
    /// VFP_SRIOV_*.
    pub sriov: i32,
    /// How many virtual functions a physical one has on, else 0.
    pub vfs: u32,
    /// Its driver; "" while the kernel is unbinding it.
    pub driver: [c_char; 40],
    /// The mdev type (`nvidia-35`) or a vendor VF's vGPU type number, else "".
    pub vgpu_type: [c_char; 72],
    /// The parent's address of a mediated device or a virtual function, else "".
    pub parent: [c_char; 24],
    /// Of a broken device what is wrong, for people; else "".
    pub problem: [c_char; 160],
}

const _: () = assert!(size_of::<vfp_device>() == 84 + 40 + 72 + 24 + 160);

// SAFETY: repr(C); the sum of its fields is its size, so there is no padding.
unsafe impl Record for vfp_device {
    const LEAST: usize = std::mem::offset_of!(vfp_device, driver);
}

const EMPTY: vfp_device = vfp_device {
    id: [0; 40],
    status: VFP_OK,
    os_errno: 0,
    vendor: 0,
    device: 0,
    subsystem_vendor: 0,
    subsystem_device: 0,
    class_code: 0,
    group: VFP_NO_GROUP,
    numa_node: -1,
    cdev: -1,
    kind: VFP_KIND_PCI,
    sriov: VFP_SRIOV_NONE,
    vfs: 0,
    driver: [0; 40],
    vgpu_type: [0; 72],
    parent: [0; 24],
    problem: [0; 160],
};

pub(super) fn kind_number(kind: Kind) -> i32 {
    match kind {
        Kind::Pci => VFP_KIND_PCI,
        Kind::Mdev => VFP_KIND_MDEV,
        Kind::VendorVf => VFP_KIND_VENDOR_VF,
    }
}

impl From<&Device> for vfp_device {
    fn from(device: &Device) -> Self {
        let (sriov, vfs) = match device.sriov {
            Sriov::None => (VFP_SRIOV_NONE, 0),
            Sriov::Physical(count) => (VFP_SRIOV_PHYSICAL, u32::from(count)),
            Sriov::Virtual => (VFP_SRIOV_VIRTUAL, 0),
        };
        Self {
            id: text::shown(&device.id),
            vendor: device.vendor,
            device: device.device,
            subsystem_vendor: device.subsystem_vendor,
            subsystem_device: device.subsystem_device,
            class_code: device.class,
            group: device.group.map_or(VFP_NO_GROUP, |group| group.0),
            numa_node: device.numa_node.map_or(-1, i32::from),
            cdev: device.cdev.and_then(|number| i32::try_from(number).ok()).unwrap_or(-1),
            kind: kind_number(device.kind),
            sriov,
            vfs,
            driver: text::shown_or_empty(device.driver),
            vgpu_type: text::shown_or_empty(device.vgpu_type),
            parent: text::shown_or_empty(device.parent),
            ..EMPTY
        }
    }
}

impl From<&Error> for vfp_device {
    fn from(error: &Error) -> Self {
        Self {
            id: text::shown_or_empty(error.device),
            status: status_of(error.kind),
            os_errno: error.errno,
            problem: text::shown(error),
            ..EMPTY
        }
    }
}

/// Tells all bound devices, in no particular order: the first `capacity` of them are written, all are counted.
///
/// Opens no device and needs no privilege; reads sysfs, some 10 system calls a device. Fails when the bound devices cannot be
/// listed at all; a device that cannot be read is a record with a `status`. VFP_MORE: call again with room for `*out_count`,
/// and mind that devices may have come meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_scan(
    root: *const vfp_root,
    size: usize,
    capacity: usize,
    out_devices: *mut vfp_device,
    out_count: *mut usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        record::given(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_devices, "out_devices") }?;
        host.with_buffer(|root, buffer| {
            root.scan(Detail::Full, buffer, |device| {
                slots.push(&match &device {
                    Ok(device) => vfp_device::from(device),
                    Err(error) => vfp_device::from(error),
                });
            })
        })?;
        // SAFETY: looked at above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Tells one device by its id, whatever it is bound to; `cdev` stays -1, which only a scan knows.
///
/// Fails with VFP_INVALID for a text that is no id, VFP_MISSING for a device that is not there, and as the kernel says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_device_read(
    root: *const vfp_root,
    id: *const c_char,
    size: usize,
    out_device: *mut vfp_device,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        // SAFETY: the caller's text, by the header's conventions.
        let id = DeviceId::parse(unsafe { text::required(id, "id") }?)
            .ok_or(Failure::Argument("id", "is neither a PCI address like 0000:3b:00.0 nor an mdev uuid"))?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_device, "out_device") }?;
        slot.push(&vfp_device::from(&host.root.device(id, Detail::Full)?));
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
