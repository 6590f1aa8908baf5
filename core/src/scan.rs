//! Lists the devices that are bound to VFIO drivers.
//!
//! The cost grows with the number of bound devices, not with the number of all PCI functions.

use crate::device::{Detail, Device, is_vfio_driver};
use crate::error::{Error, Result, is_shortage};
use crate::id::{DeviceId, PciAddress, Uuid};
use crate::root::{Buffer, KeptDirectory, Root};
use crate::text::DriverName;
use rustix::io::Errno;
use std::io::Write;

/// A bound device as listed, before its record is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Bound {
    /// The device.
    pub id: DeviceId,
    /// N of its `vfioN` entry in /sys/class/vfio-dev. None before Linux 6.1.
    pub cdev: Option<u32>,
}

impl Root {
    /// Calls `visit` with each bound device, in no particular order. Needs one system call for each
    /// device and a handful for the listing.
    ///
    /// From Linux 6.1 on the source is /sys/class/vfio-dev. It contains the devices of every VFIO
    /// driver, mediated devices included (`vfio_register_group_dev`). On older kernels the sources
    /// are the drivers in /sys/bus/pci/drivers with `vfio` in their name, and
    /// /sys/bus/mdev/devices. An entry that cannot be understood is passed to `visit` as an error
    /// about that entry.
    ///
    /// # Errors
    /// None of the sources can be read, or this process has no descriptor left to read one.
    pub fn bound(&self, buffer: &mut Buffer, visit: impl FnMut(Result<Bound>)) -> Result<()> {
        self.bound_in(&mut KeptDirectory::default(), buffer, visit)
    }

    /// As [`Root::bound`], with /sys/class/vfio-dev kept open.
    pub(crate) fn bound_in(
        &self,
        class: &mut KeptDirectory,
        buffer: &mut Buffer,
        mut visit: impl FnMut(Result<Bound>),
    ) -> Result<()> {
        let mut link = [0; 512];
        let listed = class.list(self, format_args!("sys/class/vfio-dev"), buffer, |name, _| {
            visit(self.class_entry(name, &mut link));
        });
        match listed {
            Err(Errno::NOENT) => self.bound_by_driver(buffer, visit),
            Err(errno) => Err(Error::system(errno, "sys/class/vfio-dev")),
            Ok(()) => Ok(()),
        }
    }

    /// Calls `visit` with the record of each bound device. A device that cannot be read is passed
    /// to `visit` as an error about that device alone. Opens no device node. Allocates nothing.
    ///
    /// # Errors
    /// None of the sources can be read.
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

    /// Fills `entries` with the number and the inode of each entry in /sys/class/vfio-dev.
    ///
    /// sysfs does not soon reuse an inode number (`__kernfs_new_node` allocates them cyclically).
    /// So the same entries mean the same devices, and the check needs one system call for the
    /// directory instead of one for each device. `entries` stays empty if the directory does not
    /// exist, or if it contains an entry that the kernel would not create. [`Root::bound_entry`]
    /// reads one entry.
    pub(crate) fn bound_entries(
        &self,
        class: &mut KeptDirectory,
        buffer: &mut Buffer,
        entries: &mut Vec<(u32, u64)>,
    ) {
        entries.clear();
        let mut odd = false;
        let listed = class.list(self, format_args!("sys/class/vfio-dev"), buffer, |name, inode| {
            match class_number(name) {
                // The name must follow from the number: not `vfio07`.
                Some(number) if name.len() == "vfio".len() + decimal_digits(number) => {
                    entries.push((number, inode));
                }
                _ => odd = true,
            }
        });
        if odd || listed.is_err() {
            entries.clear();
        }
    }

    /// Reads the entry `vfioN` of this number in /sys/class/vfio-dev. Needs one system call.
    pub(crate) fn bound_entry(&self, number: u32) -> Result<Bound> {
        let mut name = [0; 16];
        let mut rest = &mut name[..];
        // `vfio` and ten digits at most.
        let length = match write!(rest, "vfio{number}") {
            Ok(()) => 16 - rest.len(),
            Err(_) => 0,
        };
        self.class_entry(name.get(..length).unwrap_or_default(), &mut [0; 512])
    }

    /// Reads one entry, as in `vfio0 -> ../../devices/pci0000:00/0000:00:02.0/vfio-dev/vfio0`. The
    /// device is the component before `vfio-dev`.
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
        // The buffer cannot serve two listings at the same time, so the names of the drivers are
        // copied. 32 is ten times the number of VFIO drivers that a kernel has.
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
                // The directory also contains bind, unbind, new_id, module and uevent. Only
                // addresses have a colon.
                if name.contains(&b':') {
                    let address =
                        PciAddress::parse(name).ok_or_else(|| Error::malformed(WHAT).of_entry(name));
                    visit(address.map(|address| Bound { id: DeviceId::Pci(address), cdev: None }));
                }
            });
            match listed {
                // This process has no descriptor left. The driver's devices are still bound.
                Err(errno) if is_shortage(errno) => return Err(Error::system(errno, WHAT)),
                Err(errno) => visit(Err(Error::system(errno, WHAT).of_entry(driver.as_bytes()))),
                Ok(()) => {}
            }
        }
        let listed = self.list(format_args!("sys/bus/mdev/devices"), buffer, |name| {
            let uuid =
                Uuid::parse(name).ok_or_else(|| Error::malformed("sys/bus/mdev/devices").of_entry(name));
            visit(uuid.map(|uuid| Bound { id: DeviceId::Mdev(uuid), cdev: None }));
        });
        match listed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) if is_shortage(errno) => return Err(Error::system(errno, "sys/bus/mdev/devices")),
            Err(errno) => visit(Err(Error::system(errno, "sys/bus/mdev/devices"))),
        }
        Ok(())
    }
}

/// Returns N of an entry `vfioN`. None if the name has another form.
pub(crate) fn class_number(name: &[u8]) -> Option<u32> {
    std::str::from_utf8(name.strip_prefix(b"vfio")?).ok()?.parse().ok()
}

/// Returns the number of digits that a number has in decimal.
fn decimal_digits(number: u32) -> usize {
    number.checked_ilog10().map_or(1, |exponent| exponent as usize + 1)
}
