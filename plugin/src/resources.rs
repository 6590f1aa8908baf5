//! Pure: which devices are offered, and under which resource name.

use std::fmt::Write;
use std::str::FromStr;
use vfio_probe::Device;

/// Which devices to offer, by PCI ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Selector {
    vendor: Option<u16>,
    device: Option<u16>,
    /// Leading hex digits of the 24-bit class: `03` is every display controller.
    class: String,
}

impl Selector {
    /// Whether it selects the device.
    pub(crate) fn matches(&self, device: &Device) -> bool {
        self.vendor.is_none_or(|vendor| vendor == device.vendor)
            && self.device.is_none_or(|id| id == device.device)
            && format!("{:06x}", device.class).starts_with(&self.class)
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("{text:?} is no selector: expected VENDOR[:DEVICE][/CLASS] in hex, like 10de/03 or *");
        let id = |text: &str| match text {
            "*" | "" => Ok(None),
            _ if text.len() <= 4 => u16::from_str_radix(text, 16).map(Some).map_err(|_| bad()),
            _ => Err(bad()),
        };
        let (ids, class) = text.split_once('/').unwrap_or((text, ""));
        let (vendor, device) = ids.split_once(':').unwrap_or((ids, ""));
        if class.len() > 6 || !class.chars().all(|c| c.is_ascii_hexdigit()) || text.is_empty() {
            return Err(bad());
        }
        Ok(Self { vendor: id(vendor)?, device: id(device)?, class: class.to_ascii_lowercase() })
    }
}

/// The kubelet's limit for the part after the slash (`IsQualifiedName`).
const LONGEST_NAME: usize = 63;

/// The resource of a device, from its name in pci.ids as NVIDIA's plugin makes it; ids with one name share a resource.
/// Without a name, or with one that the kubelet would refuse, it is the hex id.
pub(crate) fn resource_name(vendor: u16, device: u16, pci_ids_name: Option<&str>) -> String {
    let name = pci_ids_name.map(sanitized).filter(|name| acceptable(name));
    let name = name.unwrap_or_else(|| format!("{device:04x}"));
    match vendor {
        0x10de => format!("nvidia.com/{name}"),
        _ => format!("pci-{vendor:04x}.vfio/{name}"),
    }
}

/// Upper case; `/` and `.` to `_`; runs of white space to one `_`; other characters outside `[A-Za-z0-9_]` go.
fn sanitized(name: &str) -> String {
    let mut out = String::new();
    let mut words = name.split_whitespace();
    if let Some(first) = words.next() {
        out.push_str(first);
    }
    for word in words {
        let _ = write!(out, "_{word}");
    }
    out.chars()
        .map(|c| if matches!(c, '/' | '.') { '_' } else { c.to_ascii_uppercase() })
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect()
}

fn acceptable(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= LONGEST_NAME && ends(name.chars().next()) && ends(name.chars().last())
}

/// The variable in which KubeVirt looks for addresses (`ResourceNameToEnvVar`); a hyphen stays.
pub(crate) fn env_name(resource: &str, mdev: bool) -> String {
    let prefix = if mdev { "MDEV_PCI_RESOURCE_" } else { "PCI_RESOURCE_" };
    format!("{prefix}{}", resource.to_uppercase().replace(['/', '.'], "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_nvidias_plugin() {
        for (id, name, expected) in [
            (0x2684, Some("AD102 [GeForce RTX 4090]"), "AD102_GEFORCE_RTX_4090"),
            (0x20b0, Some("GA100 [A100 SXM4 40GB]"), "GA100_A100_SXM4_40GB"),
            (0x2330, Some("GH100 [H100 SXM5 80GB]"), "GH100_H100_SXM5_80GB"),
            (0x2b85, Some("GB202 [GeForce RTX 5090]"), "GB202_GEFORCE_RTX_5090"),
            (0x20f3, Some("GA100 [A800-SXM4-80GB]"), "GA100_A800SXM480GB"),
            (0x2342, Some("GH100 [GH200 120GB / 480GB]"), "GH100_GH200_120GB___480GB"),
            (0x25b6, Some("GA107GL [A2 / A16]"), "GA107GL_A2___A16"),
            (0x1234, None, "1234"),
            (0x1234, Some("..."), "1234"),
            (0x1234, Some("Ends badly /"), "1234"),
            (0x1234, Some(&*"x".repeat(64)), "1234"),
            (0x1234, Some(&*"x".repeat(63)), &*"X".repeat(63)),
        ] {
            assert_eq!(resource_name(0x10de, id, name), format!("nvidia.com/{expected}"));
        }
        assert_eq!(resource_name(0x1234, 0x11e8, None), "pci-1234.vfio/11e8");
    }

    #[test]
    fn variables_are_kubevirts() {
        let name = env_name("nvidia.com/GH100_H100_SXM5_80GB", false);
        assert_eq!(name, "PCI_RESOURCE_NVIDIA_COM_GH100_H100_SXM5_80GB");
        assert_eq!(env_name("example.com/my-gpu", true), "MDEV_PCI_RESOURCE_EXAMPLE_COM_MY-GPU");
    }

    #[test]
    fn selectors_are_read() {
        for text in ["10de", "10de:2330", "10de/03", "10de:2330/0302", "*", "*/03", "*:2330"] {
            assert!(text.parse::<Selector>().is_ok(), "{text}");
        }
        for text in ["", "nvidia", "10de:x", "12345", "10de/zz", "10de/0302001"] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }
}
