//! `dra slices`: the ResourceSlices that a driver would publish of this node now.

use crate::commands::dra::devices::{FoundDevice, found_devices};
use crate::commands::dra::print;
use crate::commands::stderr;
use crate::config::Config;
use crate::node::dra_facts::DraFacts;
use crate::node::sysfs::attribute;
use anyhow::Context;
use std::sync::Arc;
use vfio_plugin_policy::dra::attributes::{MAX_VALUE, attributes};
use vfio_plugin_policy::dra::changes::changes;
use vfio_plugin_policy::dra::devices::{Features, Listed, entries};
use vfio_plugin_policy::dra::names::is_subdomain;
use vfio_plugin_policy::dra::slices::Publication;
use vfio_probe::Root;

/// Runs the command and returns the exit code.
pub(super) fn run(config: &Config, minor: u32, probe: bool) -> anyhow::Result<u8> {
    let driver = &config.dra.dra_driver;
    let node = config.dra.node.clone().map_or_else(|| host_name(config), Ok)?;
    let features = Features::of_minor(minor);
    let devices = found_devices(config, probe)?;
    let mut facts = DraFacts::new(Root::open(&config.root)?, &config.root, config.pci_ids.clone());
    facts.look_up(devices.iter().map(|found| &found.state.device));
    let listed: Vec<Listed> =
        devices.into_iter().map(|found| listed(found, &facts, minor, features)).collect();
    let entries = entries(driver, &listed, features);
    let publication = Publication { driver: driver.clone(), node, owner: None, entries };
    print(&changes(&publication, &[], 0).create)?;
    Ok(0)
}

/// Returns the entry of a device. Prints what a reader of the slices cannot see in them.
fn listed(found: FoundDevice, facts: &DraFacts, minor: u32, features: Features) -> Listed {
    let FoundDevice { state, withheld, is_unknown } = found;
    let device = &state.device;
    match &withheld {
        Some(withheld) if features.taints => {
            stderr::print(format_args!("vfio-device-plugin: {} is withheld: {withheld}", device.id));
        }
        Some(withheld) => {
            stderr::print(format_args!(
                "vfio-device-plugin: {} is left out, because Kubernetes 1.{minor} stores no taints: {withheld}",
                device.id
            ));
        }
        None if is_unknown => {
            stderr::print(format_args!(
                "vfio-device-plugin: {} may be held: its state is unknown without --probe",
                device.id
            ));
        }
        None => {}
    }
    if state.resource.len() > MAX_VALUE {
        stderr::print(format_args!(
            "vfio-device-plugin: {}: the attribute `resource` has the first {MAX_VALUE} characters of {}; rename the resource in the pools file",
            device.id, state.resource
        ));
    }
    Listed {
        id: device.id,
        group: device.group,
        attributes: Arc::new(attributes(&state, &facts.read(device))),
        withheld,
        prepared: false,
    }
}

/// Returns the host's name in lower case, as the kubelet does without --hostname-override (`GetHostname` in
/// pkg/util/node).
fn host_name(config: &Config) -> anyhow::Result<String> {
    let name = attribute(&config.root.join("proc/sys/kernel/hostname")).map(|name| name.to_lowercase());
    name.filter(|name| is_subdomain(name))
        .context("the host has no name that a Kubernetes node can have; set --node")
}
