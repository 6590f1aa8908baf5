//! The CDI specs on disk: whether container runtimes find what the running `serve` offers by them.

use crate::commands::doctor::finding::Findings;
use crate::config::Config;
use crate::state_file;
use crate::status::report::DeviceReport;
use std::collections::BTreeMap;
use std::path::Path;
use vfio_plugin_policy::cdi::names::file;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::pools::terms::Cdi;

/// Of what no pod has: how that was given the file need not say any more.
pub(super) fn examine(
    config: &Config,
    views: &[DeviceState],
    told: &[DeviceReport],
    findings: &mut Findings,
) {
    let mut missing: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut known: BTreeMap<&str, Option<Vec<String>>> = BTreeMap::new();
    for view in views.iter().filter(|view| view.terms.cdi != Cdi::None && view.device.group.is_some()) {
        let id = view.device.id.to_string();
        let is_it = |report: &&DeviceReport| {
            report.address == id && report.assignment.is_none() && *report.resource == *view.resource
        };
        if !told.iter().any(|report| is_it(&report) && report.driver.is_some()) {
            continue;
        }
        let read = || devices(&config.cdi_dir.join(file(&view.resource)));
        let names = known.entry(&view.resource).or_insert_with(read);
        if !names.as_ref().is_some_and(|names| names.contains(&id)) {
            missing.entry(&view.resource).or_default().push(id);
        }
    }
    for (resource, devices) in missing {
        let about = config.cdi_dir.join(file(resource)).display().to_string();
        let there = known.get(resource).is_some_and(Option::is_some);
        let what = if there { "is a CDI spec without" } else { "is no CDI spec that can be read, and lacks" };
        let advice = "They are given by their nodes alone. The log of serve says why; in a container, mount the host's folder, writable.";
        findings.warn(about, format!("{what} {}", devices.join(", ")), advice);
    }
}

/// The names of a spec's devices; none if it cannot be read.
fn devices(path: &Path) -> Option<Vec<String>> {
    let spec: serde_json::Value = state_file::read(path)?;
    let devices = spec.get("devices")?.as_array()?.iter();
    Some(devices.filter_map(|device| Some(device.get("name")?.as_str()?.to_owned())).collect())
}
