//! Device records: the scan of all bound devices, and the read of one device.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{
    Failure, Outcome, UNNAMED, VFP_NO_GROUP, VFP_OK, guard, status_of, vfp_error, vfp_status,
};
use super::text;
use std::ffi::c_char;
use vfio_probe::device::Detail;
use vfio_probe::{Device, DeviceId, Error, Kind, Sriov};

/// A PCI function bound to a driver built on vfio-pci-core.
pub const VFP_KIND_PCI: i32 = 0;
/// A mediated device.
pub const VFP_KIND_MDEV: i32 = 1;
/// A virtual function with a vendor driver (`nvidia`) that is itself a VFIO driver.
pub const VFP_KIND_VENDOR_VF: i32 = 2;

/// The function has no SR-IOV role.
pub const VFP_SRIOV_NONE: i32 = 0;
/// A physical function with enabled virtual functions.
pub const VFP_SRIOV_PHYSICAL: i32 = 1;
/// A virtual function.
pub const VFP_SRIOV_VIRTUAL: i32 = 2;

/// A device that is bound to a VFIO driver.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_device {
    /// PCI address (`0000:3b:00.0`) or mdev UUID; "" for an unreadable entry without a valid
    /// name.
    pub id: [c_char; 40],
    /// VFP_OK, or the reason why this device could not be read. In that case only `id`,
    /// `os_errno`, `error_text` and `error_path` are set. An unreadable device does not affect the
    /// other records.
    pub status: vfp_status,
    /// The kernel's errno if the device could not be read, else 0.
    pub os_errno: i32,
    /// PCI vendor id. For a mediated device: that of its parent, or 0 if the parent is not a PCI
    /// function.
    pub vendor: u16,
    /// PCI device id. For a mediated device: that of its parent.
    pub device: u16,
    /// PCI subsystem vendor id, 0 for none.
    pub subsystem_vendor: u16,
    /// PCI subsystem id, 0 for none.
    pub subsystem_device: u16,
    /// PCI class code, 24 bits; 0x030200 is a 3D controller.
    pub class_code: u32,
    /// IOMMU group, or VFP_NO_GROUP without an IOMMU.
    pub group: u32,
    /// NUMA node, or -1 if the kernel does not know it.
    pub numa_node: i32,
    /// N of the device's character device /dev/vfio/devices/vfioN, or -1 for none (kernels before
    /// 6.1).
    pub cdev: i32,
    /// A VFP_KIND_* value.
    pub kind: i32,
    /// A VFP_SRIOV_* value.
    pub sriov: i32,
    /// Number of enabled virtual functions of a physical function, else 0.
    pub vfs: u32,
    /// Driver name; "" while the kernel unbinds the device.
    pub driver: [c_char; 40],
    /// The mdev type (`nvidia-35`) or the vGPU type number of a vendor's virtual function, else
    /// "".
    pub vgpu_type: [c_char; 72],
    /// PCI address of the parent of a mediated device or virtual function, else "".
    pub parent: [c_char; 24],
    /// Error message if the device could not be read, else "".
    pub error_text: [c_char; 320],
    /// As `path` of vfp_error, if the device could not be read, else "".
    pub error_path: [c_char; 320],
}

const _: () = assert!(size_of::<vfp_device>() == 84 + 40 + 72 + 24 + 2 * 320);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_device {}

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
    error_text: [0; 320],
    error_path: [0; 320],
};

pub(super) fn kind_number(kind: Kind) -> i32 {
    match kind {
        Kind::Pci => VFP_KIND_PCI,
        Kind::Mdev => VFP_KIND_MDEV,
        Kind::VendorVf => VFP_KIND_VENDOR_VF,
        _ => UNNAMED,
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
            error_text: text::shown(error),
            error_path: text::path(error),
            ..EMPTY
        }
    }
}

/// Lists all devices that are bound to a VFIO driver, in no particular order. Writes the first
/// `capacity` records and sets `*out_count` to the number of devices.
///
/// Opens no device and needs no privilege. Reads sysfs: about 10 system calls per device. Fails
/// if the bound devices cannot be listed. A device that cannot be read is a record with a
/// negative `status`. On VFP_TRUNCATED call again with room for `*out_count` records; the number
/// may have grown in the meantime.
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
        record::require(out_count, "out_count")?;
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
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Reads one device by its id, bound to a VFIO driver or not. `cdev` is -1: only vfp_scan() sets
/// it.
///
/// Returns VFP_INVALID if `id` is neither a PCI address nor a UUID, VFP_MISSING if there is no
/// such device, and VFP_DENIED or VFP_SYSTEM if sysfs cannot be read. Opens no device and needs
/// no privilege.
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
            .ok_or(Failure::Argument("id", "must be a PCI address such as 0000:3b:00.0 or an mdev UUID"))?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_device, "out_device") }?;
        slot.push(&vfp_device::from(&host.root.device(id, Detail::Full)?));
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
