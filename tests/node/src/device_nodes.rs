//! The nodes in /dev/vfio that the kernel makes when a device is bound, and takes away; which ones, by its configuration.

use crate::group_node::GroupNode;
use crate::node::Node;
use crate::state::{Shared, State};
use std::collections::btree_map::Entry;
use std::fs;
use std::io::Result;
use std::os::unix::fs::symlink;
use std::path::Path;

/// What the kernel was built with, as far as it shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kernel {
    /// /sys/class/vfio-dev: from 6.1.
    pub(crate) class: bool,
    /// CONFIG_VFIO_GROUP: /dev/vfio/vfio and a node for each group.
    pub(crate) groups: bool,
    /// CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV: /dev/iommu and a node for each device.
    pub(crate) cdevs: bool,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { class: true, groups: true, cdevs: false }
    }
}

impl Node {
    /// The same without /sys/class/vfio-dev, as kernels before 6.1.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn without_vfio_class(self) -> Result<Self> {
        fs::remove_dir_all(self.root().join("sys/class/vfio-dev"))?;
        self.shared.lock().kernel.class = false;
        Ok(self)
    }

    /// The same with IOMMUFD: /dev/iommu, and a node for each device that is bound from now on.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn with_cdevs(self) -> Result<Self> {
        let class = self.root().join("sys/class/misc/iommu");
        fs::create_dir_all(&class)?;
        fs::write(class.join("dev"), "10:126\n")?;
        symlink("/dev/null", self.root().join("dev/iommu"))?;
        self.shared.lock().kernel.cdevs = true;
        Ok(self)
    }

    /// The same with IOMMUFD and without nodes for groups (CONFIG_VFIO_GROUP=n).
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn without_group_nodes(self) -> Result<Self> {
        let node = self.with_cdevs()?;
        fs::remove_dir_all(node.root().join("sys/class/vfio"))?;
        fs::remove_file(node.root().join("dev/vfio/vfio"))?;
        node.shared.lock().kernel.groups = false;
        Ok(node)
    }
}

impl Shared {
    /// A device of the group was bound (`vfio_device_set_group`).
    pub(crate) fn make_group_node(&self, state: &mut State, group: u32) -> Result<()> {
        if !state.kernel.groups {
            return Ok(());
        }
        if let Entry::Vacant(place) = state.groups.entry(group) {
            let node = GroupNode::new(&self.opens)?;
            let class = self.root.join(format!("sys/class/vfio/{group}"));
            fs::create_dir_all(&class)?;
            fs::write(class.join("dev"), node.number()?)?;
            symlink(node.path(), self.root.join(format!("dev/vfio/{group}")))?;
            place.insert(node);
        }
        Ok(())
    }

    /// The device's entry in its `folder` and in the class, by the lowest number that is free, or by `number`; its node where
    /// the kernel makes one. `path` is the folder's, from /sys on.
    pub(crate) fn make_cdev(
        &self,
        state: &mut State,
        address: &str,
        (folder, path): (&Path, &str),
        number: Option<u32>,
    ) -> Result<()> {
        if !state.kernel.class {
            return Ok(());
        }
        let free = || (0..).find(|number| !state.cdevs.values().any(|used| used == number));
        let number = number.or_else(free).unwrap_or(u32::MAX);
        state.cdevs.insert(address.to_owned(), number);
        let entry = folder.join(format!("vfio-dev/vfio{number}"));
        fs::create_dir_all(&entry)?;
        symlink(format!("../../../{address}"), entry.join("device"))?;
        symlink(
            format!("../../{path}/vfio-dev/vfio{number}"),
            self.root.join(format!("sys/class/vfio-dev/vfio{number}")),
        )?;
        if state.kernel.cdevs {
            let node = GroupNode::new(&self.opens)?;
            fs::write(entry.join("dev"), node.number()?)?;
            fs::create_dir_all(self.root.join("dev/vfio/devices"))?;
            symlink(node.path(), self.root.join(format!("dev/vfio/devices/vfio{number}")))?;
            state.cdev_nodes.insert(number, node);
        }
        Ok(())
    }

    /// The device was unbound: its entries and its node go at once (`vfio_unregister_group_dev`).
    pub(crate) fn drop_cdev(&self, state: &mut State, address: &str, folder: &Path) -> Result<()> {
        let Some(number) = state.cdevs.remove(address) else { return Ok(()) };
        // Kept elsewhere, so that its inode's number is not used again soon: sysfs gives them out in a circle
        // (`__kernfs_new_node`), and most file systems the lowest that is free.
        let gone = self.root.join("gone");
        fs::create_dir_all(&gone)?;
        state.gone += 1;
        let class = self.root.join(format!("sys/class/vfio-dev/vfio{number}"));
        fs::rename(class, gone.join(state.gone.to_string()))?;
        fs::remove_dir_all(folder.join("vfio-dev"))?;
        if state.cdev_nodes.remove(&number).is_some() {
            fs::remove_file(self.root.join(format!("dev/vfio/devices/vfio{number}")))?;
        }
        Ok(())
    }

    /// Removes the node of a group that nothing keeps.
    pub(crate) fn drop_node(&self, state: &mut State, group: u32) {
        if !state.keeps_node(group) && state.groups.remove(&group).is_some() {
            let _ = fs::remove_file(self.root.join(format!("dev/vfio/{group}")));
            let _ = fs::remove_dir_all(self.root.join(format!("sys/class/vfio/{group}")));
        }
    }
}
