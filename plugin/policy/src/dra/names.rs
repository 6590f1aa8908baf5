//! Names of drivers and devices in DRA.

use std::fmt;
use std::str::FromStr;
use vfio_probe::{DeviceId, PciAddress, Uuid};

/// Limit for the name of a driver, in bytes (`DriverNameMaxLength` in k8s.io/api/resource/v1).
const MAX_DRIVER: usize = 63;

/// The name of a DRA driver: a DNS subdomain in lower case of at most 63 bytes. It is also the domain of the driver's attributes
/// and taints.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DraDriver(String);

/// The error for a text that cannot be the name of a DRA driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseDriverError;

impl DraDriver {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name in the driver's domain, as keys of taints need it: `DRIVER/NAME`.
    pub fn qualified(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }
}

impl FromStr for DraDriver {
    type Err = ParseDriverError;

    fn from_str(text: &str) -> Result<Self, ParseDriverError> {
        (text.len() <= MAX_DRIVER && is_subdomain(text))
            .then(|| Self(text.to_owned()))
            .ok_or(ParseDriverError)
    }
}

impl fmt::Display for DraDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ParseDriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected a DNS name in lower case of at most {MAX_DRIVER} characters, like vfio.example.com"
        )
    }
}

impl std::error::Error for ParseDriverError {}

/// Returns whether a text is a DNS subdomain of at most 253 bytes, as names of nodes and of most objects are
/// (`IsDNS1123Subdomain` in k8s.io/apimachinery).
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

/// Returns whether a text is a DNS label of at most 63 bytes, as the names of a pod's claims and of requests are (`IsDNS1123Label` in
/// k8s.io/apimachinery).
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// Returns whether a text has the characters of a DNS label.
fn is_part(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(inner) && text.ends_with(inner) && text.chars().all(|c| inner(c) || c == '-')
}

/// Returns the name of a device in ResourceSlices and claims: `pci-0000-1b-00-0` or `mdev-UUID`. It is a DNS label, the same after
/// each reboot, and [`device_id`] reads it.
pub fn device_name(id: DeviceId) -> String {
    match id {
        DeviceId::Pci(PciAddress { domain, bus, device, function }) => {
            format!("pci-{domain:04x}-{bus:02x}-{device:02x}-{function:x}")
        }
        DeviceId::Mdev(uuid) => format!("mdev-{uuid}"),
    }
}

/// Returns the device of a name. None for a text that [`device_name`] does not return.
pub fn device_id(name: &str) -> Option<DeviceId> {
    let id = match name.split_once('-')? {
        ("pci", address) => {
            let mut parts = address.rsplitn(4, '-');
            let (function, device, bus, domain) =
                (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            DeviceId::Pci(PciAddress::parse(format!("{domain}:{bus}:{device}.{function}").as_bytes())?)
        }
        ("mdev", uuid) => DeviceId::Mdev(Uuid::parse(uuid.as_bytes())?),
        _ => return None,
    };
    // Upper case names no device.
    (device_name(id) == name).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_device() -> impl Strategy<Value = DeviceId> {
        let pci =
            (any::<u32>(), any::<u8>(), 0..32_u8, 0..8_u8).prop_map(|(domain, bus, device, function)| {
                DeviceId::Pci(PciAddress { domain, bus, device, function })
            });
        prop_oneof![pci, any::<u128>().prop_map(|uuid| DeviceId::Mdev(Uuid(uuid)))]
    }

    proptest! {
        #[test]
        fn device_name_is_a_dns_label_and_reversible(id in any_device()) {
            let name = device_name(id);
            prop_assert!(name.len() <= 63 && is_subdomain(&name) && !name.contains('.'), "{name}");
            prop_assert_eq!(device_id(&name), Some(id));
        }

        #[test]
        fn text_that_names_a_device_is_the_name_of_that_device(name in "(pci|mdev)-[0-9a-fA-F-]{8,40}") {
            if let Some(id) = device_id(&name) {
                prop_assert_eq!(device_name(id), name);
            }
        }
    }

    #[test]
    fn device_names_follow_the_kernels_names() {
        for (id, name) in [
            ("0000:1b:00.0", "pci-0000-1b-00-0"),
            ("10000:e1:1f.7", "pci-10000-e1-1f-7"),
            ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "mdev-83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"),
        ] {
            assert_eq!(device_name(id.parse().unwrap()), name);
        }
    }

    #[test]
    fn other_text_names_no_device() {
        for name in [
            "",
            "pci",
            "pci-",
            "pci-0000-1B-00-0",
            "pci-00000-1b-00-0",
            "pci-0000-1b-20-0",
            "pci-0000-1b-00",
            "pci-0000-1b-00-0-0",
            "mdev-83B8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            "gpu-0",
            "0000:1b:00.0",
        ] {
            assert_eq!(device_id(name), None, "{name:?}");
        }
    }

    #[test]
    fn driver_is_a_dns_subdomain_of_63_bytes() {
        let longest = format!("{}.io", "x".repeat(60));
        for text in ["vfio-probe.github.io", "a", &longest] {
            assert_eq!(text.parse::<DraDriver>().unwrap().as_str(), text);
        }
        let too_long = format!("{}.io", "x".repeat(61));
        for text in ["", "Vfio.io", "-a", "a-", "a..b", "a_b", "a/b", ".", &too_long] {
            assert_eq!(text.parse::<DraDriver>(), Err(ParseDriverError), "{text:?}");
        }
        assert_eq!("a.io".parse::<DraDriver>().unwrap().qualified("held"), "a.io/held");
    }
}
