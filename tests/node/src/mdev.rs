//! Mediated devices as files: a folder below its parent, an entry on the mdev bus, a group of its own.

use crate::node::Node;
use std::fs;
use std::io::Result;
use std::os::unix::fs::symlink;

/// A mediated device to put into the tree, bound to `vfio_mdev`.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Mdev {
    /// Its uuid.
    pub uuid: String,
    /// The function that it is a part of, which must be in the tree.
    pub parent: String,
    /// The folder of its type, as the vendor's driver calls it: `nvidia-35`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its IOMMU group.
    pub group: u32,
    /// N of its `vfioN`; none for no entry, as on kernels before 6.1.
    pub cdev: Option<u32>,
}

impl Node {
    /// Puts a mediated device into the tree.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn add_mdev(&self, mdev: &Mdev) -> Result<()> {
        let Mdev { uuid, parent, kind, group, cdev } = mdev;
        let root = self.root();
        let parent_folder = root.join("sys/devices/pci0000:00").join(parent);
        let folder = parent_folder.join(uuid);
        fs::create_dir_all(parent_folder.join("mdev_supported_types").join(kind))?;
        fs::create_dir_all(&folder)?;
        symlink(format!("../mdev_supported_types/{kind}"), folder.join("mdev_type"))?;
        let members = root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
        fs::create_dir_all(&members)?;
        symlink(format!("../../../../devices/pci0000:00/{parent}/{uuid}"), members.join(uuid))?;
        symlink(format!("../../../../kernel/iommu_groups/{group}"), folder.join("iommu_group"))?;
        fs::create_dir_all(root.join("sys/bus/mdev/devices"))?;
        fs::create_dir_all(root.join("sys/bus/mdev/drivers/vfio_mdev"))?;
        symlink("../../../../bus/mdev/drivers/vfio_mdev", folder.join("driver"))?;
        symlink(
            format!("../../../devices/pci0000:00/{parent}/{uuid}"),
            root.join("sys/bus/mdev/devices").join(uuid),
        )?;
        let mut state = self.shared.lock();
        state.mdevs.insert(uuid.clone(), *group);
        self.shared.make_group_node(&mut state, *group)?;
        let path = format!("devices/pci0000:00/{parent}/{uuid}");
        match cdev {
            Some(number) => self.shared.make_cdev(&mut state, uuid, (&folder, &path), Some(*number)),
            None => Ok(()),
        }
    }
}
