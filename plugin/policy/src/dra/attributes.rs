//! Makes the attributes of a device, by which selectors of DeviceClasses and claims choose.
//!
//! No attribute changes while the device stays bound: a change is a write to the API server, and the scheduler does not check
//! allocated devices again. Holders are in the taint.

use crate::device::DeviceState;
use k8s_openapi::api::resource::v1::DeviceAttribute;
use std::collections::BTreeMap;
use vfio_probe::{Kind, Sriov};

/// Limit for the value of a string attribute, in bytes (`DeviceAttributeMaxValueLength` in k8s.io/api/resource/v1).
pub const MAX_VALUE: usize = 64;

/// The attribute with the device's resource. DeviceClasses select by it.
pub const RESOURCE: &str = "resource";

/// The PCI address. The standard names are those of k8s.io/dynamic-resource-allocation/deviceattribute; KubeVirt reads this one.
pub const PCI_BUS_ID: &str = "resource.kubernetes.io/pciBusID";

/// The root complex, such as `pci0000:00`.
pub const PCIE_ROOT: &str = "resource.kubernetes.io/pcieRoot";

/// The NUMA node.
pub const NUMA_NODE: &str = "resource.kubernetes.io/numaNode";

/// The uuid of a mediated device. KubeVirt reads this name.
pub const MDEV_UUID: &str = "mdevUUID";

/// What a device's record does not have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceFacts {
    /// The model's name in pci.ids.
    pub model: Option<String>,
    /// The PCIe root of the device, or of a mediated device's parent: `pci0000:00`.
    pub pcie_root: Option<String>,
    /// Whether a VM can use the device through iommufd: the kernel has /dev/iommu and the device's own node.
    pub iommufd: bool,
}

/// The attributes of a device. They take a kilobyte; as the API's types they take seven.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes(Box<[(&'static str, Value)]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    Text(Box<str>),
    Integer(i64),
    Bool(bool),
}

impl Attributes {
    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the attributes by name, as the API's types.
    pub fn by_name(&self) -> BTreeMap<String, DeviceAttribute> {
        let none = DeviceAttribute::default();
        let attribute = |value: &Value| match value {
            Value::Text(text) => DeviceAttribute { string: Some(text.to_string()), ..none.clone() },
            Value::Integer(number) => DeviceAttribute { int: Some(*number), ..none.clone() },
            Value::Bool(is_true) => DeviceAttribute { bool: Some(*is_true), ..none.clone() },
        };
        self.0.iter().map(|(name, value)| ((*name).to_owned(), attribute(value))).collect()
    }
}

/// Returns the attributes of a device. Names without a domain belong to the driver's.
pub fn attributes(state: &DeviceState, facts: &DeviceFacts) -> Attributes {
    let device = &state.device;
    let pci = device.id.pci();
    let mdev = pci.is_none().then(|| device.id.to_string());
    let texts = [
        (PCI_BUS_ID, pci.map(|address| address.to_string())),
        (PCIE_ROOT, facts.pcie_root.clone()),
        (MDEV_UUID, mdev),
        (RESOURCE, Some(state.resource.to_string())),
        ("vendorID", Some(format!("{:04x}", device.vendor))),
        ("deviceID", Some(format!("{:04x}", device.device))),
        ("class", Some(format!("{:06x}", device.class))),
        ("model", facts.model.clone()),
        ("driver", device.driver.map(|driver| driver.to_string())),
        ("kind", Some(device.kind.as_str().to_owned())),
        ("sriov", (device.kind != Kind::Mdev).then(|| sriov(device.sriov).to_owned())),
        ("parent", device.parent.map(|parent| parent.to_string())),
        ("vgpuType", device.vgpu_type.map(|number| number.to_string())),
    ];
    let texts =
        texts.into_iter().filter_map(|(name, value)| Some((name, Value::Text(value_of(&value?).into()))));
    let integers = [
        (NUMA_NODE, device.numa_node.map(i64::from)),
        ("iommuGroup", device.group.map(|group| i64::from(group.0))),
    ];
    let integers = integers.into_iter().filter_map(|(name, value)| Some((name, Value::Integer(value?))));
    Attributes(texts.chain(integers).chain([("iommufd", Value::Bool(facts.iommufd))]).collect())
}

/// Returns the longest start of a text that the value of an attribute can have.
pub fn value_of(text: &str) -> &str {
    let mut ends = (0..=MAX_VALUE.min(text.len())).rev();
    ends.find_map(|end| text.get(..end)).unwrap_or_default()
}

fn sriov(role: Sriov) -> &'static str {
    match role {
        Sriov::None => "none",
        Sriov::Physical(_) => "pf",
        Sriov::Virtual => "vf",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_state;
    use serde_json::json;
    use std::time::Instant;
    use vfio_probe::text::Text;
    use vfio_probe::{Occupancy, PciAddress, Viability};

    fn gpu() -> DeviceState {
        device_state("0000:1b:00.0", 51, Occupancy::Free, Instant::now(), Viability::Viable, false)
    }

    fn facts() -> DeviceFacts {
        DeviceFacts {
            model: Some("GH100 [H100 SXM5 80GB]".into()),
            pcie_root: Some("pci0000:1a".into()),
            iommufd: true,
        }
    }

    fn json_of(state: &DeviceState, facts: &DeviceFacts) -> serde_json::Value {
        serde_json::to_value(attributes(state, facts).by_name()).unwrap()
    }

    #[test]
    fn pci_function_has_the_standard_attributes() {
        let expected = json!({
            "resource.kubernetes.io/pciBusID": {"string": "0000:1b:00.0"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:1a"},
            "resource.kubernetes.io/numaNode": {"int": 0},
            "resource": {"string": "nvidia.com/GPU"},
            "vendorID": {"string": "10de"},
            "deviceID": {"string": "2330"},
            "class": {"string": "030200"},
            "model": {"string": "GH100 [H100 SXM5 80GB]"},
            "driver": {"string": "vfio-pci"},
            "kind": {"string": "pci"},
            "sriov": {"string": "none"},
            "iommuGroup": {"int": 51},
            "iommufd": {"bool": true},
        });
        assert_eq!(json_of(&gpu(), &facts()), expected);
    }

    #[test]
    fn mediated_device_has_its_uuid_and_no_address() {
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let mut device = gpu().device;
        device.id = uuid.parse().unwrap();
        device.kind = Kind::Mdev;
        device.parent = PciAddress::parse(b"0000:01:00.0");
        device.vgpu_type = Text::new(b"nvidia-35");
        let json = json_of(&DeviceState { device, ..gpu() }, &facts());
        assert_eq!(json["mdevUUID"]["string"], uuid);
        assert_eq!(json["parent"]["string"], "0000:01:00.0");
        assert_eq!(json["vgpuType"]["string"], "nvidia-35");
        assert_eq!(json["resource.kubernetes.io/pcieRoot"]["string"], "pci0000:1a");
        assert_eq!((json.get(PCI_BUS_ID), json.get("sriov")), (None, None));
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let mut device = gpu().device;
        (device.numa_node, device.group, device.driver) = (None, None, None);
        let json = json_of(&DeviceState { device, ..gpu() }, &DeviceFacts::default());
        for name in [NUMA_NODE, PCIE_ROOT, "iommuGroup", "driver", "model", "parent", "vgpuType", MDEV_UUID] {
            assert_eq!(json.get(name), None, "{name}");
        }
    }

    #[test]
    fn roles_of_functions_are_short_words() {
        for (sriov, word) in [(Sriov::None, "none"), (Sriov::Physical(4), "pf"), (Sriov::Virtual, "vf")] {
            let mut device = gpu().device;
            device.sriov = sriov;
            assert_eq!(json_of(&DeviceState { device, ..gpu() }, &facts())["sriov"]["string"], word);
        }
    }

    #[test]
    fn long_value_is_cut_between_characters() {
        assert_eq!(value_of("short"), "short");
        assert_eq!(value_of(&"x".repeat(70)).len(), 64);
        let umlauts = "\u{e4}".repeat(40);
        assert_eq!(value_of(&format!("x{umlauts}")).len(), 63, "no half of a character");
    }
}
