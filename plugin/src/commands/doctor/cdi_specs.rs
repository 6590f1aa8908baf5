//! Checks the CDI specs on disk: whether container runtimes find the devices of the running `serve` there.

use crate::commands::doctor::finding::{Code, Findings};
use crate::config::Config;
use crate::files::{self, Links};
use crate::status::report::DeviceReport;
use std::collections::BTreeMap;
use std::path::Path;
use vfio_plugin_policy::cdi::names::file;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::pools::terms::Cdi;

/// Limit for the size of a spec in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// Adds the unassigned devices that are missing from their spec. An assigned device may have been allocated on other terms.
pub(super) fn examine(
    config: &Config,
    devices: &[DeviceState],
    reported: &[DeviceReport],
    findings: &mut Findings,
) {
    let mut missing: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut known: BTreeMap<&str, Option<Vec<String>>> = BTreeMap::new();
    for device in
        devices.iter().filter(|device| device.terms.cdi != Cdi::None && device.device.group.is_some())
    {
        let id = device.device.id.to_string();
        let is_it = |report: &&DeviceReport| {
            report.address == id && report.assignment.is_none() && *report.resource == *device.resource
        };
        if !reported.iter().any(|report| is_it(&report) && report.driver.is_some()) {
            continue;
        }
        let read = || spec_devices(&config.cdi_dir.join(file(&device.resource)));
        let names = known.entry(&device.resource).or_insert_with(read);
        if !names.as_ref().is_some_and(|names| names.contains(&id)) {
            missing.entry(&device.resource).or_default().push(id);
        }
    }
    for (resource, devices) in missing {
        let about = config.cdi_dir.join(file(resource)).display().to_string();
        let there = known.get(resource).is_some_and(Option::is_some);
        let what = if there { "lacks" } else { "is not a readable CDI spec; it should name" };
        let advice = "Allocate answers with device nodes only. The log of serve says why; in a container, mount the host's directory, writable.";
        findings.warn(Code::CdiSpecIncomplete, about, format!("{what} {}", devices.join(", ")), advice);
    }
}

/// Returns the names of a spec's devices; none if it cannot be read.
fn spec_devices(path: &Path) -> Option<Vec<String>> {
    let text = files::read(path, Links::Follow, MAX_SIZE).ok()?;
    let spec: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let devices = spec.get("devices")?.as_array()?.iter();
    Some(devices.filter_map(|device| Some(device.get("name")?.as_str()?.to_owned())).collect())
}
