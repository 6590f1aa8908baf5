//! Adds, binds, unbinds and removes PCI functions, and changes the files in sysfs and /dev as the kernel does.

use crate::function::Function;
use crate::kernel::missing;
use crate::node::Node;
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::symlink;

impl Node {
    /// Adds a function to the tree, bound if it names a driver.
    ///
    /// # Errors
    /// The tree cannot be written. The error says so if its directory was removed.
    pub fn add(&self, function: Function) -> Result<()> {
        let address = function.address.clone();
        self.add_function(function).map_err(|error| {
            let root = self.root();
            let removed = !root.join("run").exists();
            let state = if removed { ", which another process has removed" } else { "" };
            Error::new(error.kind(), format!("cannot add {address} to {}{state}: {error}", root.display()))
        })
    }

    fn add_function(&self, mut function: Function) -> Result<()> {
        let driver = function.driver.take();
        let (root, address) = (self.root(), function.address.clone());
        let dir = root.join("sys/devices/pci0000:00").join(&address);
        fs::create_dir_all(&dir)?;
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
            fs::write(dir.join(name), text)?;
        }
        fs::write(dir.join("config"), function.config())?;
        symlink(
            format!("../../../devices/pci0000:00/{address}"),
            root.join("sys/bus/pci/devices").join(&address),
        )?;
        if let Some(group) = function.group {
            let members = root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&members)?;
            symlink(format!("../../../../devices/pci0000:00/{address}"), members.join(&address))?;
            symlink(format!("../../../kernel/iommu_groups/{group}"), dir.join("iommu_group"))?;
        }
        if let Some(physfn) = &function.physfn {
            symlink(format!("../{physfn}"), dir.join("physfn"))?;
        }
        if let Some(count) = function.sriov_numvfs {
            fs::write(dir.join("sriov_numvfs"), format!("{count}\n"))?;
        }
        self.inner.lock().functions.insert(address.clone(), function);
        driver.map_or(Ok(()), |driver| self.bind(&address, &driver))
    }

    /// Adds functions that no test selects, each in a group of its own; the groups count from 10,000.
    ///
    /// # Errors
    /// See [`Node::add`].
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

    /// Binds a function to a driver. The group of a VFIO driver's function gets a device node.
    ///
    /// # Errors
    /// There is no such function, it is bound already, or the tree cannot be written.
    pub fn bind(&self, address: &str, driver: &str) -> Result<()> {
        let mut state = self.inner.lock();
        let state = &mut *state;
        let function = state.functions.get_mut(address).ok_or_else(|| missing(address))?;
        if function.driver.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{address} is bound")));
        }
        function.driver = Some(driver.to_owned());
        let root = self.root();
        let dir = root.join("sys/devices/pci0000:00").join(address);
        fs::write(dir.join("uevent"), function.uevent())?;
        let driver_dir = root.join("sys/bus/pci/drivers").join(driver);
        fs::create_dir_all(&driver_dir)?;
        symlink(format!("../../../../devices/pci0000:00/{address}"), driver_dir.join(address))?;
        if let (true, Some(group)) = (function.has_vfio_driver(), function.group) {
            self.inner.make_group_node(state, group)?;
            let path = format!("devices/pci0000:00/{address}");
            self.inner.make_cdev(state, address, (&dir, &path), None)?;
        }
        // Last. `really_probe` links before it calls the driver, but no test depends on a half-done bind.
        symlink(format!("../../../bus/pci/drivers/{driver}"), dir.join("driver"))
    }

    /// Unbinds a function. While a VM has its device open, the kernel's unbind waits: the driver link and `vfio-dev`
    /// go at once, the group's device node and `enable` when the holder closes the device.
    ///
    /// # Errors
    /// There is no such function, it is not bound, or the tree cannot be written.
    pub fn unbind(&self, address: &str) -> Result<()> {
        let mut state = self.inner.lock();
        let function = state.functions.get_mut(address).ok_or_else(|| missing(address))?;
        let driver = function.driver.take().ok_or_else(|| missing(address))?;
        let group = function.group;
        let uevent = function.uevent();
        let root = self.root();
        let dir = root.join("sys/devices/pci0000:00").join(address);
        fs::remove_file(dir.join("driver"))?;
        fs::remove_file(root.join("sys/bus/pci/drivers").join(driver).join(address))?;
        fs::write(dir.join("uevent"), uevent)?;
        self.inner.drop_cdev(&mut state, address, &dir)?;
        if let Some(group) = group {
            self.inner.drop_node(&mut state, group);
        }
        Ok(())
    }

    /// Removes a function from the tree.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn remove(&self, address: &str) -> Result<()> {
        let bound =
            self.inner.lock().functions.get(address).ok_or_else(|| missing(address))?.driver.is_some();
        if bound {
            self.unbind(address)?;
        }
        let function = self.inner.lock().functions.remove(address);
        fs::remove_file(self.root().join("sys/bus/pci/devices").join(address))?;
        if let Some(group) = function.and_then(|function| function.group) {
            let dir = self.root().join(format!("sys/kernel/iommu_groups/{group}"));
            fs::remove_file(dir.join("devices").join(address))?;
            // The last member takes its group along (`iommu_group_release`).
            if fs::read_dir(dir.join("devices"))?.next().is_none() {
                fs::remove_dir_all(dir)?;
            }
        }
        fs::remove_dir_all(self.root().join("sys/devices/pci0000:00").join(address))
    }
}
