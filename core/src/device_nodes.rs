//! Finds the device nodes that the kernel has for a group.
//!
//! The source is sysfs, so a container does not need to see the host's /dev. A device that has a
//! device node has a `dev` attribute with its number (`device_add`, drivers/base/core.c). The class
//! entry alone proves nothing: `vfio-dev/` also exists without CONFIG_VFIO_DEVICE_CDEV. The kernel
//! reuses minor numbers after a rebind, so callers should not cache results.

use crate::error::Result;
use crate::id::{DeviceId, GroupId};
use crate::root::{Buffer, Root};
use crate::scan::class_number;
use rustix::io::Errno;

/// The device nodes of a group, as paths relative to /dev: what a VM needs to use the group's devices.
///
/// There are two ways. In group mode a VM opens [`DeviceNodes::container`] and
/// [`DeviceNodes::group`]. In iommufd mode it opens [`DeviceNodes::iommufd`] and the node of each
/// device that it uses.
///
/// ```no_run
/// // Needs a host with a group 51.
/// use vfio_probe::{GroupId, Root};
///
/// # fn main() -> vfio_probe::Result<()> {
/// let nodes = Root::host()?.device_nodes(GroupId(51))?;
/// for node in nodes.iommufd_mode().or(nodes.group_mode()).unwrap_or_default() {
///     println!("/dev/{node}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct DeviceNodes {
    /// `vfio/vfio`. None if the kernel has no such node.
    pub container: Option<String>,
    /// `vfio/N`, or `vfio/noiommu-N` without an IOMMU. None if the group has no such node, as
    /// without CONFIG_VFIO_GROUP.
    pub group: Option<String>,
    /// `iommu`. None if the kernel has no such node (CONFIG_IOMMUFD).
    pub iommufd: Option<String>,
    /// The members that are bound to a VFIO driver, sorted by id. Each has its node
    /// `vfio/devices/vfioN`, or none without CONFIG_VFIO_DEVICE_CDEV.
    pub devices: Vec<(DeviceId, Option<String>)>,
}

impl DeviceNodes {
    /// Returns the nodes that a VM needs in group mode. None if one of them is missing.
    #[must_use]
    pub fn group_mode(&self) -> Option<Vec<&str>> {
        Some(vec![self.container.as_deref()?, self.group.as_deref()?])
    }

    /// Returns the nodes that a VM with all devices of the group needs in iommufd mode. None if one
    /// of them is missing, or if no device is bound.
    #[must_use]
    pub fn iommufd_mode(&self) -> Option<Vec<&str>> {
        let devices = self.devices.iter().map(|(_, node)| node.as_deref());
        let nodes: Option<Vec<&str>> = std::iter::once(self.iommufd.as_deref()).chain(devices).collect();
        nodes.filter(|nodes| nodes.len() > 1)
    }
}

impl Root {
    /// Returns the device nodes of a group. Opens none of them. Allocates.
    ///
    /// # Errors
    /// The group does not exist, or its members cannot be listed.
    pub fn device_nodes(&self, group: GroupId) -> Result<DeviceNodes> {
        let devices = self.cdevs(group, &mut Buffer::new())?;
        let cdev_path = |number: u32| format!("vfio/devices/vfio{number}");
        Ok(DeviceNodes {
            container: self.has_container_node().then(|| "vfio/vfio".to_owned()),
            group: self.group_node(group).map(|name| format!("vfio/{name}")),
            iommufd: self.has_iommufd().then(|| "iommu".to_owned()),
            devices: devices.into_iter().map(|(id, number)| (id, number.map(cdev_path))).collect(),
        })
    }

    /// Returns whether the kernel has /dev/vfio/vfio (CONFIG_VFIO_CONTAINER, or IOMMUFD instead of
    /// it). Needs one system call.
    #[doc(hidden)]
    #[must_use]
    pub fn has_container_node(&self) -> bool {
        self.stat(format_args!("sys/class/misc/vfio/dev")).is_ok()
    }

    /// Returns whether the kernel has device nodes for groups (CONFIG_VFIO_GROUP). The source is
    /// the class that `vfio_group_init` creates, /sys/class/vfio. Returns true if sysfs shows no
    /// VFIO class at all, because then nothing is known. Needs one or two system calls.
    #[doc(hidden)]
    #[must_use]
    pub fn has_group_nodes(&self) -> bool {
        let missing = |class: &str| self.stat(format_args!("sys/class/{class}")).err() == Some(Errno::NOENT);
        !missing("vfio") || missing("vfio-dev")
    }

    /// Returns the name of the group's own device node in /dev/vfio: its number, or `noiommu-N`
    /// without an IOMMU. None if the group has no such node, as without CONFIG_VFIO_GROUP. Needs
    /// one or two system calls. Allocates.
    #[doc(hidden)]
    #[must_use]
    pub fn group_node(&self, group: GroupId) -> Option<String> {
        let names = [group.to_string(), format!("noiommu-{group}")];
        names.into_iter().find(|name| self.stat(format_args!("sys/class/vfio/{name}/dev")).is_ok())
    }

    /// Returns whether the kernel has /dev/iommu. Needs one system call.
    #[doc(hidden)]
    #[must_use]
    pub fn has_iommufd(&self) -> bool {
        self.stat(format_args!("sys/class/misc/iommu/dev")).is_ok()
    }

    /// Returns the members of a group that are bound to a VFIO driver, sorted by id. Each comes
    /// with N of its device node /dev/vfio/devices/vfioN, or none if it has no such node. Skips
    /// members that cannot be read. Allocates.
    ///
    /// # Errors
    /// The group does not exist, or its members cannot be listed.
    #[doc(hidden)]
    pub fn cdevs(&self, group: GroupId, buffer: &mut Buffer) -> Result<Vec<(DeviceId, Option<u32>)>> {
        let mut members = Vec::new();
        self.members(group, buffer, |member| {
            members.extend(member.ok().filter(|member| member.vfio).and_then(|member| member.id()));
        })?;
        members.sort_unstable();
        Ok(members.into_iter().map(|id| (id, self.cdev_of(id, buffer))).collect())
    }

    fn cdev_of(&self, id: DeviceId, buffer: &mut Buffer) -> Option<u32> {
        let number = self.vfio_number(id, buffer)?;
        let node = format_args!("sys/bus/{}/devices/{id}/vfio-dev/vfio{number}/dev", id.bus());
        self.stat(node).is_ok().then_some(number)
    }

    /// Returns N of the device's `vfioN` entry, whether or not it has a device node.
    pub(crate) fn vfio_number(&self, id: DeviceId, buffer: &mut Buffer) -> Option<u32> {
        let mut number = None;
        self.list(format_args!("sys/bus/{}/devices/{id}/vfio-dev", id.bus()), buffer, |name| {
            number = number.or_else(|| class_number(name));
        })
        .ok()?;
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_entries_with_a_device_number_have_nodes() {
        let directory = tempfile::tempdir().unwrap();
        let path = |relative: &str| directory.path().join(relative);
        let devices = "sys/kernel/iommu_groups/7/devices";
        for (address, driver) in
            [("0000:01:00.0", "vfio-pci"), ("0000:01:00.1", "vfio-pci"), ("0000:01:00.2", "pcieport")]
        {
            let function = path(&format!("sys/bus/pci/devices/{address}"));
            // Every function with a `vfio-dev` directory is bound to a VFIO driver, so the bridge
            // gets none.
            let cdev = if driver == "pcieport" { "power" } else { "vfio-dev/vfio12" };
            fs::create_dir_all(function.join(cdev)).unwrap();
            fs::create_dir_all(path(devices)).unwrap();
            std::os::unix::fs::symlink(format!("drivers/{driver}"), function.join("driver")).unwrap();
            let link = format!("../../../../bus/pci/devices/{address}");
            std::os::unix::fs::symlink(link, path(devices).join(address)).unwrap();
        }
        fs::write(path("sys/bus/pci/devices/0000:01:00.0/vfio-dev/vfio12/dev"), "511:12\n").unwrap();
        let root = Root::open(directory.path()).unwrap();
        let id = |text: &str| text.parse::<DeviceId>().unwrap();
        let found = root.cdevs(GroupId(7), &mut Buffer::new()).unwrap();
        assert_eq!(found, [(id("0000:01:00.0"), Some(12)), (id("0000:01:00.1"), None)]);
        assert!(root.cdevs(GroupId(8), &mut Buffer::new()).is_err());
        assert!(!root.has_iommufd() && root.group_node(GroupId(7)).is_none());
        assert!(root.has_group_nodes(), "sysfs shows no VFIO class");
        fs::create_dir_all(path("sys/class/vfio-dev")).unwrap();
        assert!(!root.has_group_nodes());
        for node in ["sys/class/misc/iommu", "sys/class/vfio/7", "sys/class/vfio/noiommu-8"] {
            fs::create_dir_all(path(node)).unwrap();
            fs::write(path(node).join("dev"), "10:126\n").unwrap();
        }
        assert!(root.has_iommufd() && root.has_group_nodes());
        assert_eq!(root.group_node(GroupId(7)).as_deref(), Some("7"));
        assert_eq!(root.group_node(GroupId(8)).as_deref(), Some("noiommu-8"));
        let nodes = root.device_nodes(GroupId(7)).unwrap();
        assert_eq!((nodes.container.as_deref(), nodes.group_mode()), (None, None));
        fs::create_dir_all(path("sys/class/misc/vfio")).unwrap();
        fs::write(path("sys/class/misc/vfio/dev"), "10:196\n").unwrap();
        let nodes = root.device_nodes(GroupId(7)).unwrap();
        let devices =
            [(id("0000:01:00.0"), Some("vfio/devices/vfio12".to_owned())), (id("0000:01:00.1"), None)];
        assert_eq!(nodes.devices, devices);
        assert_eq!(nodes.group_mode(), Some(vec!["vfio/vfio", "vfio/7"]));
        assert_eq!(nodes.iommufd_mode(), None, "the second device has no node");
        fs::write(path("sys/bus/pci/devices/0000:01:00.1/vfio-dev/vfio12/dev"), "511:13\n").unwrap();
        let nodes = root.device_nodes(GroupId(7)).unwrap();
        assert_eq!(nodes.iommufd_mode().unwrap(), ["iommu", "vfio/devices/vfio12", "vfio/devices/vfio12"]);
        assert!(root.device_nodes(GroupId(8)).is_err(), "no group 8 in sysfs");
    }
}
