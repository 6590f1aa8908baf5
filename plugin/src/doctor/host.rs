//! The host: its IOMMU, its device nodes, and what is bound.

use super::finding::Findings;
use crate::resources::{env_name, of_one_variable};
use crate::settings::Settings;
use crate::snapshot::DeviceView;
use crate::sriov;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vfio_probe::device::{Detail, is_vfio_driver};
use vfio_probe::text::DriverName;
use vfio_probe::{Device, DeviceId, PciAddress, Root, Sriov};

pub(super) fn examine(
    settings: &Settings,
    root: &Root,
    views: &[DeviceView],
    unreadable: &[vfio_probe::Error],
    findings: &mut Findings,
) {
    if is_empty(&settings.root.join("sys/kernel/iommu_groups")) {
        findings.broken(
            "host",
            "there are no IOMMU groups: the IOMMU is off",
            "Turn on the IOMMU (VT-d, AMD-Vi) in the firmware and boot with intel_iommu=on or amd_iommu=on.",
        );
    }
    let nodes = settings.root.join("dev/vfio");
    if !views.is_empty() && !nodes.is_dir() {
        let advice = "In a container, mount the host's /dev/vfio; without it only sysfs can be looked at.";
        findings.warn("/dev/vfio", "cannot be seen", advice);
    } else if !views.is_empty() && !root.has_group_nodes() {
        // By sysfs: a container that sees /dev/vfio need not see the rest of /dev.
        if !root.has_iommufd() {
            let advice = "This kernel gives devices by /dev/vfio/devices and /dev/iommu alone: load the module iommufd.";
            findings.warn("/dev/iommu", "does not exist", advice);
        }
    } else if !views.is_empty() && !nodes.join("vfio").exists() {
        let advice = "Load the module vfio_iommu_type1 or vfio; every machine opens that node first.";
        findings.warn("/dev/vfio/vfio", "does not exist", advice);
    }
    for error in unreadable {
        findings.warn("sysfs", error.to_string(), "The device is left out until this can be read.");
    }
    if views.is_empty() {
        let advice = "Bind devices to vfio-pci (driverctl set-override ADDRESS vfio-pci), or give --select or --pools.";
        findings.warn("selection", "no device of it is bound to a VFIO driver", advice);
    }
    for (id, driver) in shared_functions(root, views) {
        let advice = "A machine must give a VF token (QEMU's vf-token) to open one of them, and to open it while one is open: else \
                      the open fails with Permission denied. Write 0 to its sriov_numvfs, or bind it to its own driver and offer \
                      its virtual functions alone.";
        findings.warn(id.to_string(), format!("is bound to {driver} with virtual functions on"), advice);
    }
    let resources: BTreeSet<&str> = views.iter().map(|view| &*view.resource).collect();
    for (first, second) in of_one_variable(resources.into_iter()) {
        let what = format!("and {first} have one variable, {}", env_name(second, false));
        let advice = "A container that has both is told the addresses of one of them: give one another name, or an alias.";
        findings.warn(second, what, advice);
    }
    for (id, driver) in unbound(settings, root, views) {
        let what = match driver {
            Some(driver) => format!("is selected, but bound to {driver}"),
            None => "is selected, but bound to no driver".to_owned(),
        };
        let advice = format!("If machines are to have it: driverctl set-override {id} vfio-pci.");
        findings.warn(id.to_string(), what, advice);
    }
}

/// Physical functions that have virtual ones on and are bound to a VFIO driver, of which any is offered.
fn shared_functions(root: &Root, views: &[DeviceView]) -> BTreeMap<PciAddress, DriverName> {
    let mut functions = sriov::shared(views.iter().map(|view| &view.device));
    functions.extend(
        views.iter().filter(|view| view.device.sriov == Sriov::Virtual).filter_map(|view| view.device.parent),
    );
    let driver = |function: PciAddress| root.device(DeviceId::Pci(function), Detail::Identity).ok()?.driver;
    let bound = functions.into_iter().filter_map(|function| Some((function, driver(function)?)));
    bound.filter(|(_, driver)| is_vfio_driver(driver.as_bytes())).collect()
}

/// Functions that the selection names and that no VFIO driver has; here all functions may be looked at.
fn unbound(settings: &Settings, root: &Root, views: &[DeviceView]) -> Vec<(DeviceId, Option<String>)> {
    let Ok(entries) = std::fs::read_dir(settings.root.join("sys/bus/pci/devices")) else { return Vec::new() };
    let mut found: Vec<(DeviceId, Option<String>)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| !views.iter().any(|view| view.device.id == *id))
        .filter_map(|id| root.device(id, Detail::Identity).ok())
        // Bridges are never passed through, whatever a wide selection says.
        .filter(|device: &Device| device.class >> 16 != 0x06)
        .filter(|device| settings.offered.of(device).is_some())
        .map(|device| (device.id, device.driver.map(|driver| driver.to_string())))
        .collect();
    found.sort();
    found
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
