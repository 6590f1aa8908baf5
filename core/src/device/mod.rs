//! Describes devices: the record of a device, its kind and its SR-IOV role.

mod record;
mod vgpu_type;

use crate::id::{DeviceId, GroupId, PciAddress};
use crate::text::{DriverName, Text};

pub(crate) use record::{NumaNodes, optional, parse_decimal};

/// The record of one device as sysfs describes it. `Copy`, without heap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Device {
    /// PCI address or mdev uuid.
    pub id: DeviceId,
    /// PCI vendor id. For a mediated device that of its parent, or 0 if the parent is no PCI
    /// function.
    pub vendor: u16,
    /// PCI device id. For a mediated device that of its parent.
    pub device: u16,
    /// PCI subsystem vendor id. 0 if there is none.
    pub subsystem_vendor: u16,
    /// PCI subsystem id. 0 if there is none.
    pub subsystem_device: u16,
    /// PCI class, 24 bits: base class, subclass, programming interface (0x030200: 3D controller).
    pub class: u32,
    /// The driver that it is bound to. None if it has no driver, as while the kernel unbinds it.
    pub driver: Option<DriverName>,
    /// The IOMMU group. None without an IOMMU.
    pub group: Option<GroupId>,
    /// The NUMA node. None if the kernel reports -1, which means unknown and not node 0.
    pub numa_node: Option<u16>,
    /// The SR-IOV role.
    pub sriov: Sriov,
    /// N of `vfioN`, its entry in /sys/class/vfio-dev. On kernels with VFIO cdev also its device
    /// node in /dev/vfio/devices. None before Linux 6.1, and in a record that was not read by a
    /// scan.
    pub cdev: Option<u32>,
    /// The kind of device.
    pub kind: Kind,
    /// The directory name of an mdev's type (`nvidia-35`), or the vGPU type number of a vendor's
    /// virtual function.
    pub vgpu_type: Option<Text<64>>,
    /// The parent of a mediated device or of a virtual function. For a virtual function it is read
    /// with [`Detail::Full`] only.
    pub parent: Option<PciAddress>,
}

impl Device {
    /// Returns a record with nothing but an id, for programs that make records by themselves. Set the
    /// other fields after it.
    ///
    /// ```
    /// use vfio_probe::{Device, GroupId};
    ///
    /// let mut device = Device::new("0000:3b:00.0".parse().unwrap());
    /// device.group = Some(GroupId(51));
    /// assert_eq!(device.vendor, 0);
    /// ```
    #[must_use]
    pub fn new(id: DeviceId) -> Self {
        Self {
            id,
            vendor: 0,
            device: 0,
            subsystem_vendor: 0,
            subsystem_device: 0,
            class: 0,
            driver: None,
            group: None,
            numa_node: None,
            sriov: Sriov::None,
            cdev: None,
            kind: if id.pci().is_some() { Kind::Pci } else { Kind::Mdev },
            vgpu_type: None,
            parent: None,
        }
    }
}

/// Kinds of devices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A PCI function behind a driver built on vfio-pci-core.
    Pci,
    /// A mediated device.
    Mdev,
    /// A virtual function whose vendor's driver (`nvidia`) is itself a VFIO driver.
    VendorVf,
}

impl Kind {
    /// Returns `pci`, `mdev` or `vendor-vf`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::Mdev => "mdev",
            Self::VendorVf => "vendor-vf",
        }
    }
}

/// SR-IOV roles. Exhaustive, because the specification has no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sriov {
    /// Neither physical nor virtual function, or not read ([`Detail::Identity`]).
    None,
    /// A physical function with this number of enabled virtual functions.
    Physical(u16),
    /// A virtual function. [`Device::parent`] is its physical function.
    Virtual,
}

impl Sriov {
    /// Returns `none`, `physical` or `virtual`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Physical(_) => "physical",
            Self::Virtual => "virtual",
        }
    }
}

/// How much of a device's record to read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Detail {
    /// Everything except the SR-IOV role and the parent of a virtual function. Saves four system
    /// calls a device.
    Identity,
    /// Everything.
    Full,
}

/// Returns whether a driver of this name is a VFIO driver. For kernels before 6.1, which have no
/// `vfio-dev/` directory.
///
/// The names of all VFIO drivers contain `vfio` (drivers/vfio/pci/*/), so it does not matter
/// whether the kernel writes `-` or `_`.
#[must_use]
pub fn is_vfio_driver(name: &[u8]) -> bool {
    name.windows(4).any(|part| part == b"vfio")
}

/// Returns whether a driver of this name is a vendor's own driver, with virtual functions of
/// [`Kind::VendorVf`].
pub(crate) fn is_vendor_driver(name: &[u8]) -> bool {
    name == b"nvidia"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vfio_drivers_are_known_by_name() {
        for name in
            ["vfio-pci", "nvgrace_gpu_vfio_pci", "nvgrace-gpu-vfio-pci", "mlx5_vfio_pci", "xe-vfio-pci"]
        {
            assert!(is_vfio_driver(name.as_bytes()), "{name}");
        }
        for name in ["e1000", "nvidia", "pci-stub", "virtio-pci", ""] {
            assert!(!is_vfio_driver(name.as_bytes()), "{name}");
        }
    }
}
