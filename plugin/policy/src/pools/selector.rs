//! Selects devices by what sysfs shows of them.

use std::str::FromStr;
use vfio_probe::{Device, DeviceId, GroupId, PciAddress};

/// A vGPU type, by the directory or number that the vendor's driver gives it.
pub type VgpuType = vfio_probe::text::Text<64>;

/// A selector. It selects a device if all of its fields match; a field that is none or empty matches any device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector {
    /// PCI vendor id.
    pub vendor: Option<u16>,
    /// PCI device id.
    pub device: Option<u16>,
    /// The leading hex digits of the 24-bit class, in lower case: `03` is every display controller. Empty for any.
    pub class: String,
    /// The driver's name. `-` and `_` are equal in it, as they are to the kernel's module loader.
    pub driver: Option<String>,
    /// The PCI address or mdev uuid.
    pub address: Option<DeviceId>,
    /// The IOMMU group.
    pub group: Option<GroupId>,
    /// The parent of a mediated device, or the physical function of a virtual one.
    pub parent: Option<PciAddress>,
    /// The NUMA node.
    pub numa_node: Option<u16>,
    /// The vGPU type by its directory or number. Its name is no key, because the driver does not report it at all times.
    pub vgpu_type: Option<String>,
}

impl Selector {
    /// Returns whether it selects a device.
    pub fn matches(&self, device: &Device) -> bool {
        let driver = |name: &String| device.driver.is_some_and(|driver| same_driver(driver.as_str(), name));
        let vgpu_type = |kind: &String| device.vgpu_type.is_some_and(|own| own.as_str() == kind);
        self.vendor.is_none_or(|vendor| vendor == device.vendor)
            && self.device.is_none_or(|id| id == device.device)
            && format!("{:06x}", device.class).starts_with(&self.class)
            && self.driver.as_ref().is_none_or(driver)
            && self.address.is_none_or(|address| address == device.id)
            && self.group.is_none_or(|group| device.group == Some(group))
            && self.parent.is_none_or(|parent| device.parent == Some(parent))
            && self.numa_node.is_none_or(|node| device.numa_node == Some(node))
            && self.vgpu_type.as_ref().is_none_or(vgpu_type)
    }

    /// Returns whether it needs the device's parent, which is read only then.
    pub fn needs_parent(&self) -> bool {
        self.parent.is_some()
    }
}

fn same_driver(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(one, other)| plain(one) == plain(other))
}

/// Parses the leading hex digits of a class, with or without `0x`. Returns them in lower case; none for any other text.
pub fn class(text: &str) -> Option<String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let valid = (1..=6).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit());
    valid.then(|| digits.to_ascii_lowercase())
}

/// Parses a PCI id in hex, with or without `0x`. Returns none for any other text.
pub fn hex(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let valid = (1..=4).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit());
    if valid { u16::from_str_radix(digits, 16).ok() } else { None }
}

/// The form of `--select`: `VENDOR[:DEVICE][/CLASS]`.
impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("{text:?} is no selector; expected VENDOR[:DEVICE][/CLASS] in hex, like 10de/03, or *")
        };
        let id = |text: &str| match text {
            "*" | "" => Ok(None),
            _ => hex(text).map(Some).ok_or_else(bad),
        };
        if text.is_empty() {
            return Err(bad());
        }
        let (ids, class) = text.split_once('/').map_or((text, None), |(ids, class)| (ids, Some(class)));
        let (vendor, device) = ids.split_once(':').unwrap_or((ids, ""));
        let class = class.map_or(Some(String::new()), self::class).ok_or_else(bad)?;
        Ok(Self { vendor: id(vendor)?, device: id(device)?, class, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_state;
    use std::time::Instant;
    use vfio_probe::text::Text;
    use vfio_probe::{Occupancy, Viability};

    #[test]
    fn selector_is_parsed_or_refused() {
        for text in ["10de", "10de:2330", "10de/03", "10de:2330/0302", "*", "*/03", "*:2330"] {
            assert!(text.parse::<Selector>().is_ok(), "{text}");
        }
        for text in ["", "nvidia", "10de:x", "12345", "10de/zz", "10de/0302001", "10de/", "10de/0x"] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }

    #[test]
    fn all_fields_of_a_selector_must_match() {
        let gpu = device_state("0000:01:00.0", 51, Occupancy::Free, Instant::now(), Viability::Viable, false)
            .device;
        let parent = PciAddress::parse(b"0000:01:00.0");
        let mut vf = gpu;
        (vf.parent, vf.driver, vf.numa_node) = (parent, Text::new(b"nvgrace_gpu_vfio_pci"), None);
        vf.vgpu_type = Text::new(b"1414");
        let id = |text: &str| text.parse::<DeviceId>().ok();
        let any = Selector::default;
        for (selector, gpu_fits, vf_fits) in [
            (any(), true, true),
            (Selector { driver: Some("vfio-pci".into()), ..any() }, true, false),
            (Selector { driver: Some("vfio_pci".into()), ..any() }, true, false),
            (Selector { driver: Some("nvgrace-gpu-vfio-pci".into()), ..any() }, false, true),
            (Selector { driver: Some("vfio".into()), ..any() }, false, false),
            (Selector { address: id("0000:01:00.0"), ..any() }, true, true),
            (Selector { address: id("0000:01:00.1"), ..any() }, false, false),
            (Selector { group: Some(GroupId(51)), ..any() }, true, true),
            (Selector { group: Some(GroupId(52)), ..any() }, false, false),
            (Selector { parent, ..any() }, false, true),
            (Selector { numa_node: Some(0), ..any() }, true, false),
            (Selector { vgpu_type: Some("1414".into()), ..any() }, false, true),
            (Selector { vgpu_type: Some("141".into()), ..any() }, false, false),
            (
                Selector { vendor: Some(0x10de), class: "0302".into(), numa_node: Some(1), ..any() },
                false,
                false,
            ),
        ] {
            assert_eq!((selector.matches(&gpu), selector.matches(&vf)), (gpu_fits, vf_fits), "{selector:?}");
        }
    }
}
