//! The device record, and how it is read from sysfs.

use crate::error::{Error, Result};
use crate::id::{DeviceId, GroupId, PciAddress};
use crate::root::{PAGE, Root, last_component};
use crate::text::{DriverName, Text};
use rustix::io::Errno;
use std::str::FromStr;

/// One device bound to a VFIO driver, as sysfs describes it. `Copy`, no heap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Device {
    /// PCI address or mdev uuid.
    pub id: DeviceId,
    /// PCI vendor id; of a mediated device its parent's, 0 when the parent is no PCI function.
    pub vendor: u16,
    /// PCI device id; of a mediated device its parent's.
    pub device: u16,
    /// PCI subsystem vendor id, 0 for none.
    pub subsystem_vendor: u16,
    /// PCI subsystem id, 0 for none.
    pub subsystem_device: u16,
    /// PCI class, 24 bits: base class, subclass, programming interface (0x030200: 3D controller).
    pub class: u32,
    /// The driver that it is bound to; none while the kernel is unbinding it.
    pub driver: Option<DriverName>,
    /// Its IOMMU group; none without an IOMMU.
    pub group: Option<GroupId>,
    /// Its NUMA node; none where the kernel says -1, which means unknown, not node 0.
    pub numa_node: Option<u16>,
    /// What it is in terms of SR-IOV.
    pub sriov: Sriov,
    /// N of `vfioN`, its entry in /sys/class/vfio-dev and, on kernels with VFIO cdev, its node in /dev/vfio/devices.
    pub cdev: Option<u32>,
    /// What kind of device.
    pub kind: Kind,
    /// The mdev type's folder name (`nvidia-35`), or a vendor VF's vGPU type number.
    pub vgpu_type: Option<Text<64>>,
    /// The parent of a mediated device, or of a virtual function (not looked at by [`Detail::Identity`]).
    pub parent: Option<PciAddress>,
}

/// Kinds of devices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A PCI function behind a driver built on vfio-pci-core.
    Pci,
    /// A mediated device.
    Mdev,
    /// A virtual function whose vendor driver (`nvidia`) is itself a VFIO driver.
    VendorVf,
}

impl Kind {
    /// `pci`, `mdev` or `vendor-vf`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::Mdev => "mdev",
            Self::VendorVf => "vendor-vf",
        }
    }
}

/// SR-IOV roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sriov {
    /// Neither, or not looked at ([`Detail::Identity`]).
    None,
    /// A physical function that has this many virtual functions on.
    Physical(u16),
    /// A virtual function; [`Device::parent`] is its physical function.
    Virtual,
}

impl Sriov {
    /// `none`, `physical` or `virtual`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Physical(_) => "physical",
            Self::Virtual => "virtual",
        }
    }
}

/// How much of a device to read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Detail {
    /// Everything but the SR-IOV role and a virtual function's parent: four system calls a device less.
    Identity,
    /// Everything.
    Full,
}

/// Whether a driver of this name is a VFIO driver, for kernels before 6.1 that have no `vfio-dev/` folder.
///
/// All of them carry `vfio` in their name (drivers/vfio/pci/*/); `-` and `_` do not matter for that.
#[must_use]
pub fn is_vfio_driver(name: &[u8]) -> bool {
    name.windows(4).any(|part| part == b"vfio")
}

/// Whether a driver of this name is a vendor's own, whose virtual functions are [`Kind::VendorVf`].
pub(crate) fn is_vendor_driver(name: &[u8]) -> bool {
    name == b"nvidia"
}

/// The lines of a PCI function's `uevent` file that we use (`pci_uevent`, drivers/pci/pci-driver.c).
#[derive(Default)]
struct PciUevent {
    driver: Option<DriverName>,
    class: Option<u32>,
    id: Option<(u16, u16)>,
    subsystem: (u16, u16),
}

impl PciUevent {
    fn parse(text: &[u8]) -> Self {
        let mut found = Self::default();
        for line in text.split(|&byte| byte == b'\n') {
            let Some(equals) = line.iter().position(|&byte| byte == b'=') else { continue };
            let (key, value) = line.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            match key {
                b"DRIVER" => found.driver = DriverName::new(value),
                b"PCI_CLASS" => found.class = parse_hex(value),
                b"PCI_ID" => found.id = parse_pair(value),
                b"PCI_SUBSYS_ID" => found.subsystem = parse_pair(value).unwrap_or_default(),
                _ => {}
            }
        }
        found
    }
}

fn parse_hex(text: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn parse_pair(text: &[u8]) -> Option<(u16, u16)> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let half = |part: &[u8]| u16::try_from(parse_hex(part)?).ok();
    Some((half(text.get(..colon)?)?, half(text.get(colon + 1..)?)?))
}

pub(crate) fn parse_decimal<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The name behind a number in lines like `1414 : NVIDIA H200X-1-18C`.
fn listed_type(text: &[u8], number: &[u8]) -> Option<Text<64>> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (listed, name) = (line.get(..colon)?.trim_ascii(), line.get(colon + 1..)?.trim_ascii());
        if listed == number && !name.is_empty() { Text::new(name) } else { None }
    })
}

/// ENOENT is an answer, not a failure: the attribute does not exist for this device.
pub(crate) fn optional<T>(result: std::result::Result<T, Errno>) -> std::result::Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

impl Root {
    /// Whether the device exists, whatever it is bound to. One look at sysfs.
    #[must_use]
    pub fn has(&self, id: DeviceId) -> bool {
        self.stat(format_args!("sys/bus/{}/devices/{id}", id.bus())).is_ok()
    }

    /// Reads one device's record; it need not be bound. [`Device::cdev`] stays empty: only a scan, which comes from
    /// /sys/class/vfio-dev, knows it.
    ///
    /// # Errors
    /// The device is gone, unreadable, or an attribute holds what the kernel would not write. The error names the
    /// device and the attribute.
    pub fn device(&self, id: DeviceId, detail: Detail) -> Result<Device> {
        match id {
            DeviceId::Pci(address) => self.pci_function(address, detail),
            DeviceId::Mdev(_) => self.mdev(id),
        }
        .map_err(|error| error.of_device(id))
    }

    fn pci_function(&self, address: PciAddress, detail: Detail) -> Result<Device> {
        let mut buffer = [0; PAGE];
        let at = |errno, what| Error::system(errno, what);
        let uevent = self
            .read(format_args!("sys/bus/pci/devices/{address}/uevent"), &mut buffer)
            .map_err(|errno| at(errno, "uevent"))?;
        let uevent = PciUevent::parse(uevent);
        let (vendor, device) = uevent.id.ok_or(Error::malformed("uevent"))?;
        let class = uevent.class.ok_or(Error::malformed("uevent"))?;
        let group = self.group_of(format_args!("sys/bus/pci/devices/{address}/iommu_group"))?;
        let numa_node = self.numa_node(address)?;
        let parent = match detail {
            Detail::Identity => None,
            Detail::Full => self.physical_function(address)?,
        };
        let sriov = match (parent, detail) {
            (Some(_), _) => Sriov::Virtual,
            (None, Detail::Identity) => Sriov::None,
            (None, Detail::Full) => self.enabled_functions(address)?,
        };
        let vendor_driver = uevent.driver.is_some_and(|name| is_vendor_driver(name.as_bytes()));
        let vgpu_type = if vendor_driver { self.vgpu_type(address)? } else { None };
        Ok(Device {
            id: DeviceId::Pci(address),
            vendor,
            device,
            subsystem_vendor: uevent.subsystem.0,
            subsystem_device: uevent.subsystem.1,
            class,
            driver: uevent.driver,
            group,
            numa_node,
            sriov,
            cdev: None,
            kind: if vendor_driver { Kind::VendorVf } else { Kind::Pci },
            vgpu_type,
            parent,
        })
    }

    fn mdev(&self, id: DeviceId) -> Result<Device> {
        let mut buffer = [0; PAGE];
        let at = |errno, what| Error::system(errno, what);
        // ../../../devices/pci0000:00/0000:00:02.0/<uuid>: the parent's folder holds the device's.
        let link = self
            .link(format_args!("sys/bus/mdev/devices/{id}"), &mut buffer)
            .map_err(|errno| at(errno, "mdev link"))?;
        let parent = link.rsplit(|&byte| byte == b'/').nth(1).and_then(PciAddress::parse);
        let of_parent = parent.map(|address| self.pci_function(address, Detail::Identity)).transpose()?;
        let driver = optional(self.link(format_args!("sys/bus/mdev/devices/{id}/driver"), &mut buffer))
            .map_err(|errno| at(errno, "driver"))?
            .and_then(|link| DriverName::new(last_component(link)));
        let vgpu_type = optional(self.link(format_args!("sys/bus/mdev/devices/{id}/mdev_type"), &mut buffer))
            .map_err(|errno| at(errno, "mdev_type"))?
            .and_then(|link| Text::new(last_component(link)));
        Ok(Device {
            id,
            vendor: of_parent.map_or(0, |parent| parent.vendor),
            device: of_parent.map_or(0, |parent| parent.device),
            subsystem_vendor: of_parent.map_or(0, |parent| parent.subsystem_vendor),
            subsystem_device: of_parent.map_or(0, |parent| parent.subsystem_device),
            class: of_parent.map_or(0, |parent| parent.class),
            driver,
            group: self.group_of(format_args!("sys/bus/mdev/devices/{id}/iommu_group"))?,
            numa_node: of_parent.and_then(|parent| parent.numa_node),
            sriov: Sriov::None,
            cdev: None,
            kind: Kind::Mdev,
            vgpu_type,
            parent,
        })
    }

    /// The name of a vGPU's type as its vendor's driver calls it for people: `GRID T4-1Q` of a mediated device, `NVIDIA
    /// H200X-141C` of a virtual function. None for other devices, and where the driver tells no name: it lists the types that
    /// can be created now, of which one that is in use need not be. One read.
    ///
    /// # Errors
    /// The attribute cannot be read, or holds what is no name.
    pub fn vgpu_type_name(&self, device: &Device) -> Result<Option<Text<64>>> {
        let mut buffer = [0; PAGE];
        match (device.kind, device.id, device.vgpu_type) {
            (Kind::Mdev, id, _) => {
                const WHAT: &str = "mdev_type/name";
                let path = format_args!("sys/bus/mdev/devices/{id}/mdev_type/name");
                let text = self.attribute(path, &mut buffer, WHAT).map_err(|error| error.of_device(id))?;
                text.filter(|text| !text.is_empty())
                    .map(|text| Text::new(text).ok_or(Error::malformed(WHAT).of_device(id)))
                    .transpose()
            }
            (Kind::VendorVf, id @ DeviceId::Pci(address), Some(number)) => {
                let path = format_args!("sys/bus/pci/devices/{address}/nvidia/creatable_vgpu_types");
                let text = self
                    .attribute(path, &mut buffer, "nvidia/creatable_vgpu_types")
                    .map_err(|error| error.of_device(id))?;
                Ok(text.and_then(|text| listed_type(text, number.as_bytes())))
            }
            _ => Ok(None),
        }
    }

    fn attribute<'b>(
        &self,
        path: std::fmt::Arguments<'_>,
        buffer: &'b mut [u8],
        what: &'static str,
    ) -> Result<Option<&'b [u8]>> {
        optional(self.read(path, buffer)).map_err(|errno| Error::system(errno, what))
    }

    fn group_of(&self, link: std::fmt::Arguments<'_>) -> Result<Option<GroupId>> {
        optional(self.link(link, &mut [0; 256]).map(|link| GroupId::parse(last_component(link))))
            .map_err(|errno| Error::system(errno, "iommu_group"))?
            .map(|group| group.ok_or(Error::malformed("iommu_group")))
            .transpose()
    }

    fn numa_node(&self, address: PciAddress) -> Result<Option<u16>> {
        let mut buffer = [0; 64];
        // Kernels without CONFIG_NUMA have no such file.
        let text = optional(self.read(format_args!("sys/bus/pci/devices/{address}/numa_node"), &mut buffer))
            .map_err(|errno| Error::system(errno, "numa_node"))?;
        match text.map(parse_decimal::<i32>) {
            None | Some(Some(-1)) => Ok(None),
            Some(node) => {
                node.and_then(|node| u16::try_from(node).ok()).map(Some).ok_or(Error::malformed("numa_node"))
            }
        }
    }

    fn physical_function(&self, address: PciAddress) -> Result<Option<PciAddress>> {
        let mut buffer = [0; 256];
        optional(self.link(format_args!("sys/bus/pci/devices/{address}/physfn"), &mut buffer))
            .map_err(|errno| Error::system(errno, "physfn"))?
            .map(|link| PciAddress::parse(last_component(link)).ok_or(Error::malformed("physfn")))
            .transpose()
    }

    fn enabled_functions(&self, address: PciAddress) -> Result<Sriov> {
        let mut buffer = [0; 64];
        let text =
            optional(self.read(format_args!("sys/bus/pci/devices/{address}/sriov_numvfs"), &mut buffer))
                .map_err(|errno| Error::system(errno, "sriov_numvfs"))?;
        match text.map(parse_decimal::<u16>) {
            None | Some(Some(0)) => Ok(Sriov::None),
            Some(Some(count)) => Ok(Sriov::Physical(count)),
            Some(None) => Err(Error::malformed("sriov_numvfs")),
        }
    }

    fn vgpu_type(&self, address: PciAddress) -> Result<Option<Text<64>>> {
        let mut buffer = [0; 64];
        let path = format_args!("sys/bus/pci/devices/{address}/nvidia/current_vgpu_type");
        let text = optional(self.read(path, &mut buffer))
            .map_err(|errno| Error::system(errno, "nvidia/current_vgpu_type"))?;
        match text {
            None | Some(b"0") => Ok(None),
            Some(text) => Text::new(text).map(Some).ok_or(Error::malformed("nvidia/current_vgpu_type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_kernels_uevent() {
        let uevent = PciUevent::parse(
            b"DRIVER=vfio-pci\nPCI_CLASS=30200\nPCI_ID=10DE:2330\nPCI_SUBSYS_ID=10DE:16C1\nPCI_SLOT_NAME=0000:3b:00.0",
        );
        assert_eq!(uevent.driver.unwrap().as_str(), "vfio-pci");
        assert_eq!(uevent.class, Some(0x03_0200));
        assert_eq!(uevent.id, Some((0x10de, 0x2330)));
        assert_eq!(uevent.subsystem, (0x10de, 0x16c1));
    }

    #[test]
    fn a_type_is_found_by_its_number() {
        let text = b"ID    : vGPU Name\n1428 : NVIDIA H200X-141C\n  1414  :  NVIDIA H200X-1-18C \n7 :\nbad\n9 : \xff\n";
        let name = |number: &str| listed_type(text, number.as_bytes()).map(|name| name.to_string());
        assert_eq!(name("1428").as_deref(), Some("NVIDIA H200X-141C"));
        assert_eq!(name("1414").as_deref(), Some("NVIDIA H200X-1-18C"));
        for number in ["142", "7", "9", "0", ""] {
            assert_eq!(name(number), None, "{number}");
        }
    }

    #[test]
    fn knows_vfio_drivers_by_name() {
        for name in
            ["vfio-pci", "nvgrace_gpu_vfio_pci", "nvgrace-gpu-vfio-pci", "mlx5_vfio_pci", "xe-vfio-pci"]
        {
            assert!(is_vfio_driver(name.as_bytes()), "{name}");
        }
        for name in ["e1000", "nvidia", "pci-stub", "virtio-pci", ""] {
            assert!(!is_vfio_driver(name.as_bytes()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_uevent_panics(bytes: Vec<u8>) {
            PciUevent::parse(&bytes);
        }
    }
}
