//! Functions as files: what the kernel shows in sysfs and /dev when one is added, bound, unbound and removed.

use crate::function::Function;
use crate::node::Node;
use crate::state::missing;
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::symlink;

impl Node {
    /// Puts a function into the tree, bound if it names a driver.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn add(&self, mut function: Function) -> Result<()> {
        let driver = function.driver.take();
        let (root, address) = (self.root(), function.address.clone());
        let folder = root.join("sys/devices/pci0000:00").join(&address);
        fs::create_dir_all(&folder)?;
        for (name, text) in [
            ("vendor", format!("0x{:04x}\n", function.vendor)),
            ("device", format!("0x{:04x}\n", function.device)),
            ("class", format!("0x{:06x}\n", function.class)),
            ("subsystem_vendor", format!("0x{:04x}\n", function.subsystem.0)),
            ("subsystem_device", format!("0x{:04x}\n", function.subsystem.1)),
            ("numa_node", format!("{}\n", function.numa_node)),
            ("enable", "0\n".to_owned()),
            ("power_state", "D3hot\n".to_owned()),
            ("uevent", function.uevent()),
        ] {
            fs::write(folder.join(name), text)?;
        }
        fs::write(folder.join("config"), function.config())?;
        symlink(
            format!("../../../devices/pci0000:00/{address}"),
            root.join("sys/bus/pci/devices").join(&address),
        )?;
        if let Some(group) = function.group {
            let members = root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&members)?;
            symlink(format!("../../../../devices/pci0000:00/{address}"), members.join(&address))?;
            symlink(format!("../../../kernel/iommu_groups/{group}"), folder.join("iommu_group"))?;
        }
        if let Some(physfn) = &function.physfn {
            symlink(format!("../{physfn}"), folder.join("physfn"))?;
        }
        if let Some(count) = function.sriov_numvfs {
            fs::write(folder.join("sriov_numvfs"), format!("{count}\n"))?;
        }
        self.shared.lock().functions.insert(address.clone(), function);
        driver.map_or(Ok(()), |driver| self.bind(&address, &driver))
    }

    /// Adds functions that nobody is interested in, each in a group of its own from 10,000 on.
    ///
    /// # Errors
    /// As [`Node::add`].
    pub fn add_unbound_functions(&self, count: u32) -> Result<()> {
        for index in 0..count {
            let (domain, bus, device, function) =
                (1 + (index >> 16), index >> 8 & 0xff, index >> 3 & 0x1f, index & 7);
            self.add(Function::new(
                &format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"),
                10_000 + index,
            ))?;
        }
        Ok(())
    }

    /// Binds a function to a driver; with a VFIO driver its group gets a node.
    ///
    /// # Errors
    /// There is no such function, it is bound, or the tree cannot be written.
    pub fn bind(&self, address: &str, driver: &str) -> Result<()> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let function = state.functions.get_mut(address).ok_or_else(|| missing(address))?;
        if function.driver.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{address} is bound")));
        }
        function.driver = Some(driver.to_owned());
        let root = self.root();
        let folder = root.join("sys/devices/pci0000:00").join(address);
        fs::write(folder.join("uevent"), function.uevent())?;
        let driver_folder = root.join("sys/bus/pci/drivers").join(driver);
        fs::create_dir_all(&driver_folder)?;
        symlink(format!("../../../../devices/pci0000:00/{address}"), driver_folder.join(address))?;
        if let (true, Some(group)) = (function.has_vfio_driver(), function.group) {
            self.shared.make_group_node(state, group)?;
            let path = format!("devices/pci0000:00/{address}");
            self.shared.make_cdev(state, address, (&folder, &path), None)?;
        }
        // Last, as `really_probe` links before it calls the driver but nobody looks at half a bind.
        symlink(format!("../../../bus/pci/drivers/{driver}"), folder.join("driver"))
    }

    /// Unbinds a function. While a machine has its device open the kernel's unbind waits: driver link and `vfio-dev`
    /// go at once, the group's node and `enable` when the holder leaves.
    ///
    /// # Errors
    /// There is no such function, it is not bound, or the tree cannot be written.
    pub fn unbind(&self, address: &str) -> Result<()> {
        let mut state = self.shared.lock();
        let function = state.functions.get_mut(address).ok_or_else(|| missing(address))?;
        let driver = function.driver.take().ok_or_else(|| missing(address))?;
        let group = function.group;
        let uevent = function.uevent();
        let root = self.root();
        let folder = root.join("sys/devices/pci0000:00").join(address);
        fs::remove_file(folder.join("driver"))?;
        fs::remove_file(root.join("sys/bus/pci/drivers").join(driver).join(address))?;
        fs::write(folder.join("uevent"), uevent)?;
        self.shared.drop_cdev(&mut state, address, &folder)?;
        if let Some(group) = group {
            self.shared.drop_node(&mut state, group);
        }
        Ok(())
    }

    /// Takes a function out of the tree.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn remove(&self, address: &str) -> Result<()> {
        let bound =
            self.shared.lock().functions.get(address).ok_or_else(|| missing(address))?.driver.is_some();
        if bound {
            self.unbind(address)?;
        }
        let function = self.shared.lock().functions.remove(address);
        fs::remove_file(self.root().join("sys/bus/pci/devices").join(address))?;
        if let Some(group) = function.and_then(|function| function.group) {
            let folder = self.root().join(format!("sys/kernel/iommu_groups/{group}"));
            fs::remove_file(folder.join("devices").join(address))?;
            // A group goes with its last member (`iommu_group_release`).
            if fs::read_dir(folder.join("devices"))?.next().is_none() {
                fs::remove_dir_all(folder)?;
            }
        }
        fs::remove_dir_all(self.root().join("sys/devices/pci0000:00").join(address))
    }
}
