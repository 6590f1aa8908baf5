//! Creates mediated devices in the tree: a directory below the parent, an entry on the mdev bus, a group of its own.

use crate::node::Node;
use std::fs;
use std::io::Result;
use std::os::unix::fs::symlink;

/// A mediated device, bound to `vfio_mdev`.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Mdev {
    /// The uuid.
    pub uuid: String,
    /// The address of the parent, which must be in the tree.
    pub parent: String,
    /// The directory name of the device's type, as the vendor's driver names it: `nvidia-35`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The IOMMU group.
    pub group: u32,
    /// N of its `vfioN`; `None` creates no entry, as on kernels before 6.1.
    pub cdev: Option<u32>,
}

impl Node {
    /// Adds a mediated device to the tree.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn add_mdev(&self, mdev: &Mdev) -> Result<()> {
        let Mdev { uuid, parent, kind, group, cdev } = mdev;
        let root = self.root();
        let parent_dir = root.join("sys/devices/pci0000:00").join(parent);
        let dir = parent_dir.join(uuid);
        fs::create_dir_all(parent_dir.join("mdev_supported_types").join(kind))?;
        fs::create_dir_all(&dir)?;
        symlink(format!("../mdev_supported_types/{kind}"), dir.join("mdev_type"))?;
        let members = root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
        fs::create_dir_all(&members)?;
        symlink(format!("../../../../devices/pci0000:00/{parent}/{uuid}"), members.join(uuid))?;
        symlink(format!("../../../../kernel/iommu_groups/{group}"), dir.join("iommu_group"))?;
        fs::create_dir_all(root.join("sys/bus/mdev/devices"))?;
        fs::create_dir_all(root.join("sys/bus/mdev/drivers/vfio_mdev"))?;
        symlink("../../../../bus/mdev/drivers/vfio_mdev", dir.join("driver"))?;
        symlink(
            format!("../../../devices/pci0000:00/{parent}/{uuid}"),
            root.join("sys/bus/mdev/devices").join(uuid),
        )?;
        let mut state = self.inner.lock();
        state.mdevs.insert(uuid.clone(), *group);
        self.inner.make_group_node(&mut state, *group)?;
        let path = format!("devices/pci0000:00/{parent}/{uuid}");
        match cdev {
            Some(number) => self.inner.make_cdev(&mut state, uuid, (&dir, &path), Some(*number)),
            None => Ok(()),
        }
    }
}
