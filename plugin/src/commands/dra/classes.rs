//! `dra classes`: a DeviceClass for each resource of this node.

use crate::commands::dra::devices::retain_offered;
use crate::commands::dra::print;
use crate::commands::offered::{Offered, offered_devices};
use crate::commands::stderr;
use crate::config::Config;
use std::collections::BTreeSet;
use vfio_plugin_policy::dra::classes::classes;

/// Runs the command and returns the exit code.
pub(super) fn run(config: &Config, extended: bool) -> anyhow::Result<u8> {
    let driver = &config.dra.dra_driver;
    let left_out = |error| stderr::print(format_args!("vfio-device-plugin: device left out: {error}"));
    let Offered { mut devices, .. } = offered_devices(config, false, left_out)?;
    retain_offered(config, &mut devices);
    let resources: BTreeSet<&str> = devices.iter().map(|device| &*device.resource).collect();
    let made = classes(driver, resources, extended);
    for (resource, reason) in &made.left_out {
        stderr::print(format_args!("vfio-device-plugin: no class for {resource}: {reason}"));
    }
    print(&made.classes)?;
    Ok(0)
}
