//! The host: its IOMMU, its device nodes, and what is bound.

use crate::commands::doctor::finding::Findings;
use crate::config::Config;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::pools::resource_name::{env_name, of_one_variable};
use vfio_plugin_policy::sriov;
use vfio_probe::device::{Detail, is_vfio_driver};
use vfio_probe::text::DriverName;
use vfio_probe::{Device, DeviceId, Kind, PciAddress, Root, Sriov};

/// The most that an attribute of sysfs has.
const PAGE: u64 = 4096;

pub(super) fn examine(
    config: &Config,
    root: &Root,
    views: &[DeviceState],
    unreadable: &[vfio_probe::Error],
    findings: &mut Findings,
) {
    if is_empty(&config.root.join("sys/kernel/iommu_groups")) {
        findings.broken(
            "host",
            "there are no IOMMU groups: the IOMMU is off",
            "Turn on the IOMMU (VT-d, AMD-Vi) in the firmware and boot with intel_iommu=on or amd_iommu=on.",
        );
    }
    let nodes = config.root.join("dev/vfio");
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
    for device in unbound(config, root, views) {
        let id = device.id;
        if device.kind == Kind::VendorVf && device.sriov == Sriov::Virtual {
            let advice = "Write a type of its creatable_vgpu_types to its nvidia/current_vgpu_type.";
            findings.warn(id.to_string(), "is selected, but no vGPU was made of it", advice);
            continue;
        }
        let what = match device.driver {
            Some(driver) => format!("is selected, but bound to {driver}"),
            None => "is selected, but bound to no driver".to_owned(),
        };
        let advice = format!("If machines are to have it: driverctl set-override {id} vfio-pci.");
        findings.warn(id.to_string(), what, advice);
    }
}

/// Physical functions that have virtual ones on and are bound to a VFIO driver, of which any is offered.
fn shared_functions(root: &Root, views: &[DeviceState]) -> BTreeMap<PciAddress, DriverName> {
    let mut functions = sriov::shared(views.iter().map(|view| &view.device));
    functions.extend(
        views.iter().filter(|view| view.device.sriov == Sriov::Virtual).filter_map(|view| view.device.parent),
    );
    let driver = |function: PciAddress| root.device(DeviceId::Pci(function), Detail::Identity).ok()?.driver;
    let bound = functions.into_iter().filter_map(|function| Some((function, driver(function)?)));
    bound.filter(|(_, driver)| is_vfio_driver(driver.as_bytes())).collect()
}

/// Functions that the selection names and that no VFIO driver has; here all functions may be looked at. Not those that carry
/// what is offered, as the host's driver makes vGPUs and virtual functions: to bind them elsewhere would end these.
fn unbound(config: &Config, root: &Root, views: &[DeviceState]) -> Vec<Device> {
    let folder = config.root.join("sys/bus/pci/devices");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    let of = |device: &Device, what: &str| folder.join(device.id.to_string()).join(what);
    let mut found: Vec<Device> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| !views.iter().any(|view| view.device.id == *id))
        .filter_map(|id| root.device(id, Detail::Full).ok())
        // Bridges are never passed through, whatever a wide selection says.
        .filter(|device: &Device| device.class >> 16 != 0x06)
        .filter(|device| config.offered.of(device).is_some())
        .filter(|device| !matches!(device.sriov, Sriov::Physical(_)))
        .filter(|device| !of(device, "mdev_supported_types").exists())
        .filter(|device| device.vgpu_type.is_none())
        .filter(|device| !makes_none(&of(device, "nvidia/creatable_vgpu_types")))
        .collect();
    found.sort_by_key(|device| device.id);
    found
}

/// Whether a function's driver lists no type of which it could make a vGPU now: what the others leave of a GPU may be nothing.
fn makes_none(types: &Path) -> bool {
    let mut text = String::new();
    let read = std::fs::File::open(types).and_then(|file| file.take(PAGE).read_to_string(&mut text));
    read.is_ok() && !text.lines().any(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()))
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
