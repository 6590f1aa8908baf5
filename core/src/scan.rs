//! The walk over the devices bound to VFIO drivers; its cost grows with them, not with all PCI functions.

use crate::device::{Detail, Device, is_vfio_driver};
use crate::error::{Error, Result};
use crate::id::{DeviceId, PciAddress, Uuid};
use crate::root::{Buffer, Root};
use crate::text::DriverName;
use rustix::io::Errno;

/// A bound device as a listing shows it, before its record is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Which device.
    pub id: DeviceId,
    /// N of its `vfioN`, on kernels from 6.1.
    pub cdev: Option<u32>,
}

impl Root {
    /// Calls `visit` with every bound device, in no particular order: one system call a device and a handful for all.
    ///
    /// From Linux 6.1 the source is /sys/class/vfio-dev, in which every VFIO driver's devices appear
    /// (`vfio_register_group_dev`), mediated ones too. On older kernels: the drivers of /sys/bus/pci/drivers that have
    /// `vfio` in their name, and /sys/bus/mdev/devices. An entry that makes no sense is an error item about itself.
    ///
    /// # Errors
    /// None of the sources can be read.
    pub fn bound(&self, buffer: &mut Buffer, mut visit: impl FnMut(Result<Bound>)) -> Result<()> {
        let mut link = [0; 512];
        let listed = self.list(format_args!("sys/class/vfio-dev"), buffer, |name| {
            visit(self.class_entry(name, &mut link));
        });
        match listed {
            Err(Errno::NOENT) => self.bound_by_driver(buffer, visit),
            Err(errno) => Err(Error::system(errno, "sys/class/vfio-dev")),
            Ok(()) => Ok(()),
        }
    }

    /// Calls `visit` with the record of every bound device.
    ///
    /// # Errors
    /// None of the sources can be read. A device that cannot be read is an error item about that device alone.
    pub fn scan(
        &self,
        detail: Detail,
        buffer: &mut Buffer,
        mut visit: impl FnMut(Result<Device>),
    ) -> Result<()> {
        self.bound(buffer, |bound| {
            visit(bound.and_then(|bound| Ok(Device { cdev: bound.cdev, ..self.device(bound.id, detail)? })));
        })
    }

    /// Fills `entries` with what tells one content of /sys/class/vfio-dev from another: each entry's number and inode.
    /// An inode's number is not soon used again in sysfs (`__kernfs_new_node` gives them out in a circle), so the same
    /// entries mean the same devices, at a system call a folder instead of one a device. Empty where there is no such
    /// folder, or an entry in it that is none of the kernel's.
    pub(crate) fn bound_entries(&self, buffer: &mut Buffer, entries: &mut Vec<(u32, u64)>) {
        entries.clear();
        let mut odd = false;
        let listed = self.list_inodes(format_args!("sys/class/vfio-dev"), buffer, |name, inode| {
            match class_number(name) {
                Some(number) => entries.push((number, inode)),
                None => odd = true,
            }
        });
        if odd || listed.is_err() {
            entries.clear();
        }
    }

    /// `vfio0 -> ../../devices/pci0000:00/0000:00:02.0/vfio-dev/vfio0`: the device is two components up.
    fn class_entry(&self, name: &[u8], buffer: &mut [u8]) -> Result<Bound> {
        const WHAT: &str = "sys/class/vfio-dev";
        let malformed = || Error::malformed(WHAT).of_entry(name);
        let number = class_number(name).ok_or_else(malformed)?;
        let entry = std::str::from_utf8(name).map_err(|_| malformed())?;
        let link = self
            .link(format_args!("sys/class/vfio-dev/{entry}"), buffer)
            .map_err(|errno| Error::system(errno, WHAT).of_entry(name))?;
        let mut components = link.rsplit(|&byte| byte == b'/').skip(1);
        if components.next() != Some(b"vfio-dev") {
            return Err(malformed());
        }
        let id = components.next().and_then(DeviceId::parse).ok_or_else(malformed)?;
        Ok(Bound { id, cdev: Some(number) })
    }

    fn bound_by_driver(&self, buffer: &mut Buffer, mut visit: impl FnMut(Result<Bound>)) -> Result<()> {
        const WHAT: &str = "sys/bus/pci/drivers";
        // The buffer cannot serve two listings at once, so the drivers' names are kept aside; 32 is ten times what
        // any kernel has.
        let mut drivers = [DriverName::EMPTY; 32];
        let mut count = 0;
        self.list(format_args!("sys/bus/pci/drivers"), buffer, |name| {
            if let (true, Some(name), Some(slot)) =
                (is_vfio_driver(name), DriverName::new(name), drivers.get_mut(count))
            {
                *slot = name;
                count += 1;
            }
        })
        .map_err(|errno| Error::system(errno, WHAT))?;
        for driver in drivers.iter().take(count) {
            let listed = self.list(format_args!("sys/bus/pci/drivers/{driver}"), buffer, |name| {
                // bind, unbind, new_id, module, uevent: only addresses have a colon.
                if name.contains(&b':') {
                    let address = PciAddress::parse(name).ok_or(Error::malformed(WHAT).of_entry(name));
                    visit(address.map(|address| Bound { id: DeviceId::Pci(address), cdev: None }));
                }
            });
            if let Err(errno) = listed {
                visit(Err(Error::system(errno, WHAT).of_entry(driver.as_bytes())));
            }
        }
        let listed = self.list(format_args!("sys/bus/mdev/devices"), buffer, |name| {
            let uuid = Uuid::parse(name).ok_or(Error::malformed("sys/bus/mdev/devices").of_entry(name));
            visit(uuid.map(|uuid| Bound { id: DeviceId::Mdev(uuid), cdev: None }));
        });
        match listed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => visit(Err(Error::system(errno, "sys/bus/mdev/devices"))),
        }
        Ok(())
    }
}

/// N of an entry `vfioN`.
pub(crate) fn class_number(name: &[u8]) -> Option<u32> {
    std::str::from_utf8(name.strip_prefix(b"vfio")?).ok()?.parse().ok()
}
