//! Reads what ResourceSlices say of a device and its record does not have.

use crate::node::sysfs::link_target;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vfio_plugin_policy::dra::attributes::DeviceFacts;
use vfio_probe::{Device, PciAddress, Root, names};

/// Reads the facts of devices.
#[derive(Debug)]
pub(crate) struct DraFacts {
    root: Root,
    pci: PathBuf,
    pci_ids: Option<PathBuf>,
    /// The models that were looked up. None for one without a name.
    models: BTreeMap<(u16, u16), Option<String>>,
}

impl DraFacts {
    /// Knows no model yet. `path` is the root's directory. With `pci_ids` all names of models come from that file.
    pub(crate) fn new(root: Root, path: &Path, pci_ids: Option<PathBuf>) -> Self {
        Self { root, pci: path.join("sys/bus/pci/devices"), pci_ids, models: BTreeMap::new() }
    }

    /// Looks up the names of the devices' models, as [`names`] describes. Reads the file once for all models that were not looked up
    /// before, and again later if it cannot be read.
    pub(crate) fn look_up<'a>(&mut self, devices: impl Iterator<Item = &'a Device>) {
        let mut unknown: Vec<(u16, u16)> = Vec::new();
        for model in devices.map(|device| (device.vendor, device.device)) {
            if self.models.contains_key(&model) || unknown.contains(&model) {
                continue;
            }
            let built_in = if self.pci_ids.is_none() { names::built_in(model.0, model.1) } else { None };
            match built_in {
                Some(name) => {
                    self.models.insert(model, Some(name.as_str().to_owned()));
                }
                None => unknown.push(model),
            }
        }
        if unknown.is_empty() {
            return;
        }
        let Ok(mut file) = names::open(self.pci_ids.as_deref()) else { return };
        let models = &mut self.models;
        let mut name = |index: usize, name: &str| {
            if let Some(model) = unknown.get(index) {
                models.insert(*model, Some(name.to_owned()));
            }
        };
        if names::find(&mut file, &unknown, &mut name).is_ok() {
            // Models without a name are published without one.
            unknown.iter().for_each(|model| {
                models.entry(*model).or_default();
            });
        }
    }

    /// Reads the facts of a device, of which the model was looked up. What cannot be read is missing.
    pub(crate) fn read(&self, device: &Device) -> DeviceFacts {
        DeviceFacts {
            model: self.models.get(&(device.vendor, device.device)).cloned().flatten(),
            pcie_root: device.id.pci().or(device.parent).and_then(|address| self.pcie_root(address)),
            iommufd: self.has_iommufd(device).unwrap_or(false),
        }
    }

    /// Returns the root complex of a function: the first directory in /sys/devices that is named `pciDDDD:BB`
    /// (`GetPCIeRootAttributeByPCIBusID` in k8s.io/dynamic-resource-allocation/deviceattribute).
    fn pcie_root(&self, address: PciAddress) -> Option<String> {
        // ../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0
        let target = link_target(&self.pci.join(address.to_string()))?;
        target.split('/').find(|part| is_root_complex(part)).map(str::to_owned)
    }

    /// Returns whether the kernel has /dev/iommu and the device's own node. None if the group cannot be read.
    fn has_iommufd(&self, device: &Device) -> Option<bool> {
        let nodes = self.root.device_nodes(device.group?).ok()?;
        let own = nodes.devices.iter().any(|(id, node)| *id == device.id && node.is_some());
        Some(nodes.iommufd.is_some() && own)
    }
}

/// Returns whether a directory is that of a root complex (`pci_register_host_bridge`, drivers/pci/probe.c).
fn is_root_complex(name: &str) -> bool {
    let Some((domain, bus)) = name.strip_prefix("pci").and_then(|numbers| numbers.split_once(':')) else {
        return false;
    };
    let is_hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
    domain.len() >= 4 && bus.len() == 2 && is_hex(domain) && is_hex(bus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_complex_is_known_by_its_name() {
        for name in ["pci0000:00", "pci0001:80", "pci10000:e1"] {
            assert!(is_root_complex(name), "{name}");
        }
        for name in
            ["0000:00:01.0", "pci", "pci0000", "pci0000:0", "pci0000:00:01.0", "platform", "pcix000:00"]
        {
            assert!(!is_root_complex(name), "{name}");
        }
    }
}
