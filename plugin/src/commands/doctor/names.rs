//! Checks the names of resources: whether they are the same on every node.

use crate::commands::doctor::finding::{Code, Findings};
use crate::config::Config;
use std::collections::BTreeMap;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::pools::selector;
use vfio_probe::{Kind, names};

/// Adds the models that are named by this host's pci.ids or by their hex id, because the table in the program lacks them. A
/// resource, an alias or `--pci-ids` makes a name certain.
pub(super) fn examine(config: &Config, devices: &[DeviceState], findings: &mut Findings) {
    if config.pci_ids.is_some() {
        return;
    }
    let mut models = BTreeMap::new();
    for state in devices {
        let device = &state.device;
        let named_by_model = device.kind == Kind::Pci && device.vgpu_type.is_none();
        if named_by_model && !is_named_in_pool(config, state) {
            models.insert((device.vendor, device.device), &state.resource);
        }
    }
    for ((vendor, device), resource) in models {
        if names::built_in(vendor, device).is_none() {
            findings.warn(Code::NameNotBuiltIn,
                format!("{vendor:04x}:{device:04x}"),
                format!(
                    "is not among the built-in names of models. The resource {resource} has its name from this host's pci.ids, or the hex id"
                ),
                "Other nodes may name it otherwise. Give the model an alias in the pools file, or set --pci-ids to the same file on all nodes.",
            );
        }
    }
}

/// Returns whether the pools file names the resource of a device.
fn is_named_in_pool(config: &Config, state: &DeviceState) -> bool {
    let Some((_, pool)) = config.offered.of(&state.device) else { return true };
    pool.resource.is_some() || pool.alias.keys().any(|key| selector::hex(key) == Some(state.device.device))
}
