//! Identifies devices and groups: PCI addresses, uuids of mediated devices, IOMMU group numbers.

use std::fmt;
use std::str::FromStr;

/// The address of a PCI function, `domain:bus:device.function` as the kernel prints it
/// (`pci_name()`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// Domain (segment). Firmware assigns 16 bits; domains that the kernel creates may have more
    /// (VMD starts at 0x10000).
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

/// The uuid of a mediated device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub u128);

/// The name of a device in sysfs, in a kubelet device id and on the command line.
///
/// ```
/// use vfio_probe::{DeviceId, PciAddress};
///
/// # fn main() -> Result<(), vfio_probe::ParseIdError> {
/// let id: DeviceId = "0000:3b:00.0".parse()?;
/// assert_eq!(id, DeviceId::Pci(PciAddress { domain: 0, bus: 0x3b, device: 0, function: 0 }));
/// assert_eq!(id.to_string(), "0000:3b:00.0");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceId {
    /// A PCI function.
    Pci(PciAddress),
    /// A mediated device.
    Mdev(Uuid),
}

/// The number of an IOMMU group. It names the group's directory in /sys/kernel/iommu_groups and its
/// device node in /dev/vfio.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// The error for a text that names no device and no group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseIdError;

fn hex(text: &[u8]) -> Option<u32> {
    let valid = !text.is_empty() && text.len() <= 8 && text.iter().all(u8::is_ascii_hexdigit);
    valid.then(|| {
        text.iter().fold(0, |value, &digit| value << 4 | char::from(digit).to_digit(16).unwrap_or(0))
    })
}

impl PciAddress {
    /// Parses the kernel's form: four to eight hex digits, two, two and one. Returns none for
    /// anything else, also for a device number above 31 or a function above 7.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (head, function) = text.split_at_checked(text.len().checked_sub(2)?)?;
        let (head, device) = head.split_at_checked(head.len().checked_sub(2)?)?;
        let (head, bus) = head.split_at_checked(head.len().checked_sub(3)?)?;
        let domain = head.strip_suffix(b":")?;
        let bus = bus.strip_suffix(b":")?;
        let function = function.strip_prefix(b".")?;
        // The kernel prints at least four digits (`%04x`), so a longer domain does not begin with 0.
        // One device has one text, apart from upper case.
        if domain.len() < 4 || domain.len() > 4 && domain.first() == Some(&b'0') {
            return None;
        }
        let address = Self {
            domain: hex(domain)?,
            bus: u8::try_from(hex(bus)?).ok()?,
            device: u8::try_from(hex(device)?).ok()?,
            function: u8::try_from(hex(function)?).ok()?,
        };
        (address.device < 32 && address.function < 8).then_some(address)
    }
}

impl Uuid {
    /// Parses hex digits in the form `8-4-4-4-12`. Returns none for anything else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != 36 {
            return None;
        }
        let mut value = 0;
        for (index, &byte) in text.iter().enumerate() {
            if matches!(index, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return None;
                }
            } else {
                value = value << 4 | u128::from(char::from(byte).to_digit(16)?);
            }
        }
        Some(Self(value))
    }
}

impl DeviceId {
    /// Parses a PCI address or a uuid. Returns none for anything else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        PciAddress::parse(text).map(Self::Pci).or_else(|| Uuid::parse(text).map(Self::Mdev))
    }

    /// Returns the name of the device's bus in sysfs: `pci` or `mdev`.
    #[must_use]
    pub fn bus(self) -> &'static str {
        match self {
            Self::Pci(_) => "pci",
            Self::Mdev(_) => "mdev",
        }
    }

    /// Returns the PCI address. None for a mediated device.
    #[must_use]
    pub fn pci(self) -> Option<PciAddress> {
        match self {
            Self::Pci(address) => Some(address),
            Self::Mdev(_) => None,
        }
    }
}

impl GroupId {
    /// Parses a decimal number as the kernel prints it, without a sign or leading zeros. Returns
    /// none for anything else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if !text.iter().all(u8::is_ascii_digit) || (text.len() > 1 && text.first() == Some(&b'0')) {
            return None;
        }
        std::str::from_utf8(text).ok()?.parse().ok().map(Self)
    }
}

impl FromStr for PciAddress {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::parse(text.as_bytes()).ok_or(ParseIdError)
    }
}

impl FromStr for Uuid {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::parse(text.as_bytes()).ok_or(ParseIdError)
    }
}

impl From<PciAddress> for DeviceId {
    fn from(address: PciAddress) -> Self {
        Self::Pci(address)
    }
}

impl From<Uuid> for DeviceId {
    fn from(uuid: Uuid) -> Self {
        Self::Mdev(uuid)
    }
}

impl FromStr for DeviceId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::parse(text.as_bytes()).ok_or(ParseIdError)
    }
}

impl FromStr for GroupId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::parse(text.as_bytes()).ok_or(ParseIdError)
    }
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a PCI address like 0000:3b:00.0, an mdev uuid, or a group number")
    }
}

impl std::error::Error for ParseIdError {}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            v >> 80 & 0xffff,
            v >> 64 & 0xffff,
            v >> 48 & 0xffff,
            v & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => address.fmt(f),
            Self::Mdev(uuid) => uuid.fmt(f),
        }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! debug_as_display {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(PciAddress, Uuid, DeviceId, GroupId);

/// Returns these ids in order, each once. A caller may pass one very often.
pub(crate) fn unique<Id: Ord>(ids: impl Into<Vec<Id>>) -> Vec<Id> {
    let mut unique = ids.into();
    unique.sort_unstable();
    unique.dedup();
    unique
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kernel_names_are_parsed_and_printed_back() {
        for text in ["0000:3b:00.0", "10000:e1:1f.7", "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab"] {
            assert_eq!(text.parse::<DeviceId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            "3b:00.0",
            "0000:3b:20.0",
            "0000:3b:00.8",
            "0000:3b:00",
            "000g:3b:00.0",
            "000000000:3b:00.0",
            "05000:3b:00.0",
            "00000001:3b:00.0",
        ] {
            assert_eq!(PciAddress::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["", "-1", "+1", "01", "4294967296", "1 "] {
            assert_eq!(GroupId::parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_address_survives_a_round_trip(domain: u32, bus: u8, device in 0u8..32, function in 0u8..8) {
            let address = PciAddress { domain, bus, device, function };
            prop_assert_eq!(PciAddress::parse(address.to_string().as_bytes()), Some(address));
        }

        #[test]
        fn any_uuid_survives_a_round_trip(value: u128) {
            prop_assert_eq!(Uuid::parse(Uuid(value).to_string().as_bytes()), Some(Uuid(value)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = (DeviceId::parse(&bytes), GroupId::parse(&bytes));
        }
    }
}
