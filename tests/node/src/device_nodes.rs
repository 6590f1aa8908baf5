//! Creates and removes the device nodes in /dev/vfio, as the kernel does on bind and unbind, by the kernel's
//! configuration.

use crate::group_node::GroupNode;
use crate::kernel::{KernelState, NodeInner};
use crate::node::Node;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::Result;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The kernel's configuration, as far as sysfs and /dev show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KernelConfig {
    /// /sys/class/vfio-dev exists: from 6.1 on.
    pub(crate) class: bool,
    /// CONFIG_VFIO_GROUP: /dev/vfio/vfio and a device node for each group.
    pub(crate) groups: bool,
    /// CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV: /dev/iommu and a device node (cdev) for each device.
    pub(crate) cdevs: bool,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self { class: true, groups: true, cdevs: false }
    }
}

impl Node {
    /// Removes /sys/class/vfio-dev, which kernels before 6.1 do not have.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub fn without_vfio_class(self) -> Result<Self> {
        fs::remove_dir_all(self.root().join("sys/class/vfio-dev"))?;
        self.inner.lock().config.class = false;
        Ok(self)
    }

    /// Adds IOMMUFD: /dev/iommu, and a cdev for each device that is bound from now on.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn with_cdevs(self) -> Result<Self> {
        let class = self.root().join("sys/class/misc/iommu");
        fs::create_dir_all(&class)?;
        fs::write(class.join("dev"), "10:126\n")?;
        symlink("/dev/null", self.root().join("dev/iommu"))?;
        self.inner.lock().config.cdevs = true;
        Ok(self)
    }

    /// Adds IOMMUFD and removes the device nodes of groups (CONFIG_VFIO_GROUP=n).
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn without_group_nodes(self) -> Result<Self> {
        let node = self.with_cdevs()?;
        fs::remove_dir_all(node.root().join("sys/class/vfio"))?;
        fs::remove_file(node.root().join("dev/vfio/vfio"))?;
        node.inner.lock().config.groups = false;
        Ok(node)
    }
}

impl NodeInner {
    /// Creates the group's device node when its first device is bound (`vfio_device_set_group`).
    pub(crate) fn make_group_node(&self, state: &mut KernelState, group: u32) -> Result<()> {
        if !state.config.groups {
            return Ok(());
        }
        if let Entry::Vacant(place) = state.groups.entry(group) {
            let node = GroupNode::new(&self.opens)?;
            let class = self.root.join(format!("sys/class/vfio/{group}"));
            fs::create_dir_all(&class)?;
            fs::write(class.join("dev"), node.device_number()?)?;
            symlink(node.path(), self.root.join(format!("dev/vfio/{group}")))?;
            place.insert(node);
        }
        Ok(())
    }

    /// Creates the device's entry below `dir` and in the class /sys/class/vfio-dev, and its cdev if the kernel has
    /// cdevs. The entry gets `number`, or the lowest free number. `path` is the path of `dir` relative to /sys.
    pub(crate) fn make_cdev(
        &self,
        state: &mut KernelState,
        address: &str,
        (dir, path): (&Path, &str),
        number: Option<u32>,
    ) -> Result<()> {
        if !state.config.class {
            return Ok(());
        }
        let free = || (0..).find(|number| !state.cdevs.values().any(|used| used == number));
        let number = number.or_else(free).unwrap_or(u32::MAX);
        state.cdevs.insert(address.to_owned(), number);
        let entry = dir.join(format!("vfio-dev/vfio{number}"));
        fs::create_dir_all(&entry)?;
        symlink(format!("../../../{address}"), entry.join("device"))?;
        symlink(
            format!("../../{path}/vfio-dev/vfio{number}"),
            self.root.join(format!("sys/class/vfio-dev/vfio{number}")),
        )?;
        if state.config.cdevs {
            let node = GroupNode::new(&self.opens)?;
            fs::write(entry.join("dev"), node.device_number()?)?;
            fs::create_dir_all(self.root.join("dev/vfio/devices"))?;
            symlink(node.path(), self.root.join(format!("dev/vfio/devices/vfio{number}")))?;
            state.cdev_nodes.insert(number, node);
        }
        Ok(())
    }

    /// Removes the device's entries and its cdev at once when it is unbound (`vfio_unregister_group_dev`).
    pub(crate) fn drop_cdev(&self, state: &mut KernelState, address: &str, dir: &Path) -> Result<()> {
        let Some(number) = state.cdevs.remove(address) else { return Ok(()) };
        // The entry is moved, not removed, so that its inode number is not reused soon. sysfs allocates inode numbers
        // cyclically (`__kernfs_new_node`); most file systems take the lowest free one.
        let gone = self.root.join("gone");
        fs::create_dir_all(&gone)?;
        state.gone += 1;
        let class = self.root.join(format!("sys/class/vfio-dev/vfio{number}"));
        fs::rename(class, gone.join(state.gone.to_string()))?;
        fs::remove_dir_all(dir.join("vfio-dev"))?;
        if state.cdev_nodes.remove(&number).is_some() {
            fs::remove_file(self.root.join(format!("dev/vfio/devices/vfio{number}")))?;
        }
        Ok(())
    }

    /// Removes the group's device node, unless a bound member or a holder keeps it.
    pub(crate) fn drop_node(&self, state: &mut KernelState, group: u32) {
        if !state.keeps_node(group) && state.groups.remove(&group).is_some() {
            let _ = fs::remove_file(self.root.join(format!("dev/vfio/{group}")));
            let _ = fs::remove_dir_all(self.root.join(format!("sys/class/vfio/{group}")));
        }
    }
}
