//! `list`: what the kernel says of each device, beside what the kubelet was told.

use crate::commands::offered::look;
use crate::commands::table::{layout, or_dash};
use crate::config::Config;
use crate::status::client;
use crate::status::client::ANSWER;
use crate::status::report::{DeviceReport, Listing};
use vfio_plugin_policy::device::DeviceState;

/// Runs the command.
pub(crate) fn run(config: &Config, json: bool, probe: bool) -> anyhow::Result<u8> {
    if let Some(mistake) = &config.not_understood {
        let file = config.pools_file();
        eprintln!("vfio-device-plugin: {file}: {mistake}: these are the devices of the running serve");
    }
    let told = client::fetch(&config.run_dir, ANSWER);
    if let Err(error) = &told {
        eprintln!("vfio-device-plugin: {error:#}: what the kubelet was told is unknown");
    }
    let views = look(config, probe, |error| eprintln!("vfio-device-plugin: left out: {error}"))?;
    let told = told.map(|status| status.devices).unwrap_or_default();
    let mut devices: Vec<DeviceReport> = views.iter().map(|view| beside(view, &told)).collect();
    // One whose unbind waits for its holder, or that a pod owns still, is in no listing of bound devices any more; only
    // serve remembers it.
    devices.extend(told.into_iter().filter(|told| {
        (told.driver.is_none() || told.owner.is_some())
            && !views.iter().any(|view| view.device.id.to_string() == told.address)
    }));
    let listing = Listing { devices };
    if json {
        println!("{}", serde_json::to_string(&listing)?);
    } else {
        print!("{}", table(&listing));
    }
    Ok(0)
}

/// A fresh look, with what a running `serve` has told, and with its knowledge where a look cannot have it: a holder that
/// has the group open but no device, a count that is left over from before, a node that is missing.
pub(crate) fn beside(view: &DeviceState, told: &[DeviceReport]) -> DeviceReport {
    let mut report = DeviceReport::new(view, None, None);
    let Some(told) = told.iter().find(|told| told.address == report.address) else { return report };
    report.health.clone_from(&told.health);
    report.owner.clone_from(&told.owner);
    // A device that a pod owns stays in the resource that it was given by, whatever the pools say by now.
    report.resource.clone_from(&told.resource);
    if told.reason.is_some() {
        report.reason.clone_from(&told.reason);
    }
    let opened = told.evidence == "open";
    let unseen = match (report.state.as_str(), told.state.as_str()) {
        ("free" | "unknown", "held") => opened,
        ("held", "free") => told.stale_enable,
        ("unknown", "free") => opened,
        (_, "absent") => true,
        _ => false,
    };
    if report.evidence != "open" && unseen {
        report.state.clone_from(&told.state);
        report.evidence.clone_from(&told.evidence);
        report.holders.clone_from(&told.holders);
    }
    report
}

/// The listing as a table.
pub(crate) fn table(listing: &Listing) -> String {
    if listing.devices.is_empty() {
        return "No device of the selection is bound to a VFIO driver.\n".to_owned();
    }
    let rows: Vec<[String; 9]> = listing
        .devices
        .iter()
        .map(|device| {
            let holders =
                device.holders.iter().map(|holder| format!("pid {} ({})", holder.pid, holder.command));
            let holders: Vec<String> = holders.collect();
            let note = device.reason.clone().unwrap_or_else(|| holders.join(", "));
            [
                device.address.clone(),
                or_dash(device.iommu_group),
                or_dash(device.numa_node),
                device.resource.clone(),
                device.state.clone(),
                device.evidence.clone(),
                or_dash(device.health.clone()),
                or_dash(device.owner.clone()),
                note,
            ]
        })
        .collect();
    layout(["ADDRESS", "GROUP", "NUMA", "RESOURCE", "STATE", "BY", "KUBELET", "POD", "NOTE"], &rows)
}
