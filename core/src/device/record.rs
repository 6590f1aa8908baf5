//! Reads the record of a device from sysfs.

use crate::device::{Detail, Device, Kind, Sriov, is_vendor_driver};
use crate::error::{Error, Result};
use crate::id::{DeviceId, GroupId, PciAddress};
use crate::root::{PAGE, Root, last_component};
use crate::text::{DriverName, Text};
use rustix::io::Errno;
use std::str::FromStr;

/// The used lines of a PCI function's `uevent` file (`pci_uevent`, drivers/pci/pci-driver.c).
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

/// Parses a decimal number. Returns none for anything else.
pub(crate) fn parse_decimal<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Turns ENOENT into none: the attribute does not exist for this device, which is no error.
pub(crate) fn optional<T>(result: std::result::Result<T, Errno>) -> std::result::Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Reads the NUMA node of a function.
type NumaNode<'a> = &'a mut dyn FnMut(PciAddress) -> Result<Option<u16>>;

/// Bit of /proc/sys/kernel/tainted that a write to a function's `numa_node` sets
/// (`TAINT_FIRMWARE_WORKAROUND` in `numa_node_store`, drivers/pci/pci-sysfs.c).
const NUMA_NODE_WRITTEN: u64 = 1 << 11;

/// The NUMA nodes of functions that are read together.
///
/// A function has the node of its bus (`pcibus_to_node` in `pci_device_add`), so one read serves all
/// functions of a bus, such as the virtual functions of a network adapter. The kernel takes no node
/// from the firmware's entry of a function: `pci_acpi_setup` sets none, and commit 0d76bcc960e6
/// reverted the use of `_PXM` there before Linux 4.20. Each function is read where it can have a node
/// of its own:
///
/// - An administrator has written the node of a function, which the kernel marks.
/// - The node is a guest of Hyper-V, which names a node for each function
///   (`hv_pci_assign_numa_node`).
/// - The bus has no node, because a driver can set one then (`nvme_probe`).
#[derive(Debug, Default)]
pub(crate) struct NumaNodes {
    /// Domain, number and node of each bus that was read.
    buses: Vec<(u32, u8, Option<u16>)>,
    /// Whether all functions have the node of their bus. None if that was not read.
    as_buses: Option<bool>,
}

impl NumaNodes {
    /// Forgets all nodes. Keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.buses.clear();
        self.as_buses = None;
    }

    /// Returns the node of a function. None if the kernel does not know it.
    fn of(&mut self, root: &Root, address: PciAddress) -> Result<Option<u16>> {
        let PciAddress { domain, bus, .. } = address;
        let known = self.buses.iter().rev().find(|(of, number, _)| (*of, *number) == (domain, bus));
        if let Some(&(.., node)) = known {
            let is_shared =
                node.is_some() && *self.as_buses.get_or_insert_with(|| root.functions_have_nodes_of_buses());
            return if is_shared { Ok(node) } else { root.numa_node(address) };
        }
        let node = root.numa_node(address)?;
        self.buses.push((domain, bus, node));
        Ok(node)
    }
}

impl Root {
    /// Returns whether a device exists, bound or not. Needs one system call.
    #[must_use]
    pub fn has(&self, id: DeviceId) -> bool {
        self.stat(format_args!("sys/bus/{}/devices/{id}", id.bus())).is_ok()
    }

    /// Reads the record of one device, bound or not. [`Device::cdev`] is always none here: only a
    /// scan of /sys/class/vfio-dev knows it. Allocates nothing.
    ///
    /// # Errors
    /// The device does not exist, cannot be read, or an attribute has content that the kernel would
    /// not write. The error names the device and the attribute.
    pub fn device(&self, id: DeviceId, detail: Detail) -> Result<Device> {
        self.device_of(id, detail, |address| self.numa_node(address))
    }

    /// As [`Root::device`], for one of many devices that are read together.
    pub(crate) fn device_with(&self, id: DeviceId, detail: Detail, nodes: &mut NumaNodes) -> Result<Device> {
        self.device_of(id, detail, |address| nodes.of(self, address))
    }

    fn device_of(
        &self,
        id: DeviceId,
        detail: Detail,
        mut numa_node: impl FnMut(PciAddress) -> Result<Option<u16>>,
    ) -> Result<Device> {
        match id {
            DeviceId::Pci(address) => self.pci_function(address, detail, &mut numa_node),
            DeviceId::Mdev(_) => self.mdev(id, &mut numa_node),
        }
        .map_err(|error| error.of_device(id))
    }

    fn pci_function(&self, address: PciAddress, detail: Detail, numa_node: NumaNode<'_>) -> Result<Device> {
        let mut buffer = [0; PAGE];
        let uevent = self.read(format_args!("sys/bus/pci/devices/{address}/uevent"), &mut buffer).map_err(
            |errno| match errno {
                // Each device has this attribute, so without it there is no device. The read of a
                // device that is being removed fails with ENODEV.
                Errno::NOENT | Errno::NODEV => Error::system(errno, ""),
                _ => Error::system(errno, "uevent"),
            },
        )?;
        let uevent = PciUevent::parse(uevent);
        let (vendor, device) = uevent.id.ok_or(Error::malformed("uevent"))?;
        let class = uevent.class.ok_or(Error::malformed("uevent"))?;
        let group = self.group_of(format_args!("sys/bus/pci/devices/{address}/iommu_group"))?;
        let numa_node = numa_node(address)?;
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

    fn mdev(&self, id: DeviceId, numa_node: NumaNode<'_>) -> Result<Device> {
        let mut buffer = [0; PAGE];
        let at = |errno, what| Error::system(errno, what);
        // ../../../devices/pci0000:00/0000:00:02.0/<uuid>: the device's directory is inside that of
        // its parent.
        let link = self
            .link(format_args!("sys/bus/mdev/devices/{id}"), &mut buffer)
            .map_err(|errno| at(errno, ""))?;
        let parent = link.rsplit(|&byte| byte == b'/').nth(1).and_then(PciAddress::parse);
        let of_parent =
            parent.map(|address| self.pci_function(address, Detail::Identity, numa_node)).transpose();
        let of_parent = of_parent.map_err(|mut error| {
            error.what = in_parent(error.what);
            error
        })?;
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

    fn group_of(&self, link: std::fmt::Arguments<'_>) -> Result<Option<GroupId>> {
        optional(self.link(link, &mut [0; 256]).map(|link| GroupId::parse(last_component(link))))
            .map_err(|errno| Error::system(errno, "iommu_group"))?
            .map(|group| group.ok_or(Error::malformed("iommu_group")))
            .transpose()
    }

    fn numa_node(&self, address: PciAddress) -> Result<Option<u16>> {
        let mut buffer = [0; 64];
        // Kernels without CONFIG_NUMA have no such attribute.
        let text = optional(self.read(format_args!("sys/bus/pci/devices/{address}/numa_node"), &mut buffer))
            .map_err(|errno| Error::system(errno, "numa_node"))?;
        match text.map(parse_decimal::<i32>) {
            None | Some(Some(-1)) => Ok(None),
            Some(node) => {
                node.and_then(|node| u16::try_from(node).ok()).map(Some).ok_or(Error::malformed("numa_node"))
            }
        }
    }

    /// Returns whether each function has the NUMA node of its bus: no node was written since the
    /// boot, and Hyper-V names none. Returns false if that is not known.
    fn functions_have_nodes_of_buses(&self) -> bool {
        let mut buffer = [0; 64];
        let tainted = self.read(format_args!("proc/sys/kernel/tainted"), &mut buffer).ok();
        tainted.and_then(parse_decimal::<u64>).is_some_and(|tainted| tainted & NUMA_NODE_WRITTEN == 0)
            && matches!(self.stat(format_args!("sys/bus/vmbus")), Err(Errno::NOENT))
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
}

/// Returns the place of a parent's attribute, relative to the directory of a mediated device, which
/// is inside that of the parent.
fn in_parent(what: &'static str) -> &'static str {
    match what {
        "uevent" => "../uevent",
        "iommu_group" => "../iommu_group",
        "numa_node" => "../numa_node",
        "" => "..",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn uevent_of_the_kernel_is_parsed() {
        let uevent = PciUevent::parse(
            b"DRIVER=vfio-pci\nPCI_CLASS=30200\nPCI_ID=10DE:2330\nPCI_SUBSYS_ID=10DE:16C1\nPCI_SLOT_NAME=0000:3b:00.0",
        );
        assert_eq!(uevent.driver.unwrap().as_str(), "vfio-pci");
        assert_eq!(uevent.class, Some(0x03_0200));
        assert_eq!(uevent.id, Some((0x10de, 0x2330)));
        assert_eq!(uevent.subsystem, (0x10de, 0x16c1));
    }

    #[test]
    fn functions_of_a_bus_share_its_node_unless_they_can_differ() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        // A kernel has two nodes on one bus after a write, and as a guest of Hyper-V.
        let nodes = [
            ("0000:01:00.0", "0"),
            ("0000:01:00.1", "1"),
            ("0000:02:00.0", "1"),
            ("0001:01:00.0", "-1"),
            ("0001:01:00.1", "0"),
        ];
        for (address, node) in nodes {
            let function = format!("sys/bus/pci/devices/{address}");
            write(&format!("{function}/uevent"), "PCI_CLASS=30200\nPCI_ID=10DE:2330\n");
            write(&format!("{function}/numa_node"), &format!("{node}\n"));
        }
        let root = Root::open(directory.path()).unwrap();
        let mut kept = NumaNodes::default();
        let mut read = || {
            kept.clear();
            nodes.map(|(address, _)| {
                let id = address.parse().unwrap();
                root.device_with(id, Detail::Identity, &mut kept).unwrap().numa_node
            })
        };
        let each = [Some(0), Some(1), Some(1), None, Some(0)];
        let of_buses = [Some(0), Some(0), Some(1), None, Some(0)];
        assert_eq!(read(), each, "not known");
        for (tainted, expected) in
            [("0", of_buses), ("4097", of_buses), ("2048", each), ("6145", each), ("?", each)]
        {
            write("proc/sys/kernel/tainted", &format!("{tainted}\n"));
            assert_eq!(read(), expected, "{tainted}");
        }
        write("proc/sys/kernel/tainted", "0\n");
        assert_eq!(read(), of_buses);
        std::fs::create_dir_all(directory.path().join("sys/bus/vmbus/devices")).unwrap();
        assert_eq!(read(), each, "a guest of Hyper-V");
    }

    proptest! {
        #[test]
        fn arbitrary_uevent_never_panics(bytes: Vec<u8>) {
            PciUevent::parse(&bytes);
        }
    }
}
