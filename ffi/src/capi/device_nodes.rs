//! The device nodes that a VM needs to use a group.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Outcome, group_argument, guard, vfp_error, vfp_status};
use super::text;
use std::ffi::c_char;
use vfio_probe::DeviceNodes;

/// `vfio/vfio`, which a VM in group mode opens.
pub const VFP_NODE_CONTAINER: i32 = 0;
/// `vfio/N`, the group's own node, which a VM in group mode opens. Without an IOMMU
/// `vfio/noiommu-N`.
pub const VFP_NODE_GROUP: i32 = 1;
/// `iommu`, which a VM in iommufd mode opens.
pub const VFP_NODE_IOMMUFD: i32 = 2;
/// `vfio/devices/vfioN`, the node of one device, which a VM in iommufd mode opens.
pub const VFP_NODE_CDEV: i32 = 3;

/// A device node that a VM needs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_device_node {
    /// A VFP_NODE_* value.
    pub kind: i32,
    /// Always 0.
    pub reserved: u32,
    /// Path relative to /dev; "" for a device that has no node of its own, as without
    /// CONFIG_VFIO_DEVICE_CDEV.
    pub path: [c_char; 48],
    /// The device of a VFP_NODE_CDEV, else "".
    pub device: [c_char; 40],
}

const _: () = assert!(size_of::<vfp_device_node>() == 96);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_device_node {}

/// Lists the device nodes that the kernel has for a group: what a VM needs to use its devices.
/// Writes the first `capacity` records and sets `*out_count` to their number.
///
/// There are two ways. A VM in group mode opens the nodes of VFP_NODE_CONTAINER and
/// VFP_NODE_GROUP. A VM in iommufd mode opens the node of VFP_NODE_IOMMUFD and the VFP_NODE_CDEV
/// of each device that it uses. A mode is possible if the list has all nodes of it. The list has
/// one VFP_NODE_CDEV for each member that is bound to a VFIO driver.
///
/// Opens no node and needs no privilege; reads sysfs, so /dev need not be visible. Returns
/// VFP_MISSING if there is no such group, and VFP_TRUNCATED as vfp_scan() does. Do not keep the
/// result: the kernel reuses the numbers of devices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_device_nodes(
    root: *const vfp_root,
    group: u32,
    size: usize,
    capacity: usize,
    out_nodes: *mut vfp_device_node,
    out_count: *mut usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        let group = group_argument(group)?;
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_nodes, "out_nodes") }?;
        let DeviceNodes { container, group, iommufd, devices, .. } = host.root.device_nodes(group)?;
        let mut push = |kind, path: Option<String>, device| {
            slots.push(&vfp_device_node { kind, reserved: 0, path: text::shown_or_empty(path), device });
        };
        for (kind, path) in
            [(VFP_NODE_CONTAINER, container), (VFP_NODE_GROUP, group), (VFP_NODE_IOMMUFD, iommufd)]
        {
            if path.is_some() {
                push(kind, path, [0; 40]);
            }
        }
        devices.into_iter().for_each(|(device, path)| push(VFP_NODE_CDEV, path, text::shown(&device)));
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
