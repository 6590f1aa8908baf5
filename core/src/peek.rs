//! The look without opening: sysfs `enable` of a group's functions.

use crate::device::is_vendor_driver;
use crate::error::{Error, Result};
use crate::id::{DeviceId, GroupId};
use crate::root::{Buffer, Root};
use rustix::io::{Errno, pread};
use std::os::fd::OwnedFd;

/// What a peek says about a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Peek {
    /// No function of it is enabled beyond its baseline. A holder that has the group but no device yet looks like this.
    LooksFree,
    /// At least one function is enabled: `vfio_pci_core_enable` ran for somebody.
    LooksHeld,
    /// There is no `enable` to read: mediated devices, vendor virtual functions.
    Unavailable,
}

impl Peek {
    /// `looks-free`, `looks-held` or `unavailable`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LooksFree => "looks-free",
            Self::LooksHeld => "looks-held",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A device's `enable` attribute (`enable_show`, drivers/pci/pci-sysfs.c: the function's enable count), kept open:
/// a pread costs a third of open, read and close.
#[derive(Debug, Default)]
pub struct EnableCount {
    file: Option<OwnedFd>,
}

impl EnableCount {
    /// Reads the count.
    ///
    /// # Errors
    /// There is no such attribute (kind Missing), or it holds no number. Nothing is concluded from an old descriptor:
    /// one that answers ENODEV, because the device was removed and perhaps added again, is reopened by path first.
    pub fn read(&mut self, root: &Root, device: DeviceId) -> Result<u32> {
        self.try_read(root, device).map_err(|error| error.of_device(device))
    }

    fn try_read(&mut self, root: &Root, device: DeviceId) -> Result<u32> {
        let mut buffer = [0; 16];
        let system = |errno| Error::system(errno, "enable");
        if let Some(file) = &self.file {
            match pread(file, &mut buffer, 0) {
                Ok(length) => return parse(buffer.get(..length).unwrap_or_default()),
                Err(Errno::NODEV) => self.file = None,
                Err(errno) => return Err(system(errno)),
            }
        }
        let Some(address) = device.pci() else { return Err(system(Errno::NOENT)) };
        let file =
            root.open_attribute(format_args!("sys/bus/pci/devices/{address}/enable")).map_err(system)?;
        let length = pread(&file, &mut buffer, 0).map_err(system)?;
        self.file = Some(file);
        parse(buffer.get(..length).unwrap_or_default())
    }

    /// Drops the descriptor, so that the next read opens by path.
    pub fn forget(&mut self) {
        self.file = None;
    }
}

fn parse(text: &[u8]) -> Result<u32> {
    std::str::from_utf8(text.trim_ascii_end())
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Error::malformed("enable"))
}

impl Root {
    /// Looks at a group once: any function of it that is bound to a VFIO driver and enabled makes it look held.
    ///
    /// A count may be left over from before the bind; only [`Monitor`](crate::Monitor) knows baselines. Opens no device
    /// node, needs no privilege. Bridges and functions of other drivers are enabled with nobody there and do not count.
    ///
    /// # Errors
    /// There is no such group or its members cannot be listed.
    pub fn peek(&self, group: GroupId, buffer: &mut Buffer) -> Result<Peek> {
        let mut peek = Peek::Unavailable;
        self.members(group, buffer, |member| {
            let Ok(member) = member else { return };
            let (true, Some(id)) = (member.vfio, member.id()) else { return };
            // The count of a vendor's virtual function is its host driver's (`nvidia`), which does not enable it for a machine.
            if member.driver.is_some_and(|driver| is_vendor_driver(driver.as_bytes())) {
                return;
            }
            match EnableCount::default().read(self, id) {
                Ok(0) if peek == Peek::Unavailable => peek = Peek::LooksFree,
                Ok(0) | Err(_) => {}
                Ok(_) => peek = Peek::LooksHeld,
            }
        })?;
        Ok(peek)
    }
}
