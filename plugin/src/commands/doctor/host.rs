//! Checks the host: its IOMMU, its device nodes, and the drivers of the selected functions.

use crate::commands::doctor::finding::{Code, Findings};
use crate::commands::doctor::holders;
use crate::commands::doctor::pods::PodLookup;
use crate::commands::doctor::unbound;
use crate::config::Config;
use crate::files::{Links, open};
use crate::node::function_facts::FactsReader;
use crate::status::report::HolderReport;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::pools::resource_name::{env_name, variable_collisions};
use vfio_plugin_policy::sriov;
use vfio_probe::device::{Detail, is_vfio_driver};
use vfio_probe::text::DriverName;
use vfio_probe::{Buffer, Device, DeviceId, GroupId, Kind, PciAddress, Root, Sriov};

/// Longest sysfs attribute.
const PAGE: u64 = 4096;

/// Adds what is wrong with the host. `explained` are functions of which another check says why they are not bound.
pub(super) fn examine(
    (config, root, facts): (&Config, &Root, &FactsReader),
    devices: &[DeviceState],
    unreadable: &[vfio_probe::Error],
    (explained, pods): (&BTreeSet<DeviceId>, &PodLookup<'_>),
    findings: &mut Findings,
) {
    if is_empty(&config.root.join("sys/kernel/iommu_groups")) {
        findings.broken(
            Code::IommuOff,
            "host",
            "there are no IOMMU groups: the IOMMU is off",
            "Turn on the IOMMU (VT-d, AMD-Vi) in the firmware and boot with intel_iommu=on or amd_iommu=on.",
        );
    }
    let nodes = config.root.join("dev/vfio");
    if !devices.is_empty() && !nodes.is_dir() {
        let advice = "In a container, mount the host's /dev/vfio; without it the plugin can only read sysfs.";
        findings.warn(Code::NoVfioDirectory, "/dev/vfio", "does not exist here", advice);
    } else if !devices.is_empty() && !root.has_group_nodes() {
        // From sysfs: a container with /dev/vfio need not have the rest of /dev.
        if !root.has_iommufd() {
            let advice = "VMs on this kernel need /dev/vfio/devices and /dev/iommu: load the module iommufd.";
            findings.warn(Code::NoIommufd, "/dev/iommu", "does not exist", advice);
        }
    } else if !devices.is_empty() && !nodes.join("vfio").exists() {
        let advice = "Load the module vfio_iommu_type1 or vfio; every VM opens that device node first.";
        findings.warn(Code::NoContainerNode, "/dev/vfio/vfio", "does not exist", advice);
    }
    for error in unreadable {
        findings.warn(
            Code::DeviceUnreadable,
            "sysfs",
            error.to_string(),
            "The device is left out until this can be read.",
        );
    }
    let mut unbound = unbound_functions(config, root, devices);
    unbound.retain(|device| !explained.contains(&device.id));
    let selects_none = unbound.is_empty() && explained.is_empty();
    unbinding(root, &mut unbound, pods, findings);
    if devices.is_empty() {
        let advice = match selects_none {
            true => {
                "Bind devices to vfio-pci (`driverctl set-override ADDRESS vfio-pci`), or select others with --select or --pools."
            }
            false => "The findings about the selected functions say why, and what to do.",
        };
        findings.warn(
            Code::NothingBound,
            "selection",
            "no selected device is bound to a VFIO driver",
            advice,
        );
    }
    for (id, driver) in shared_functions(root, devices) {
        let advice = "VMs must pass a VF token (QEMU's vf-token) to open a virtual function, and to open the physical one while a \
                      virtual one is open; without it the open fails with Permission denied. Write 0 to its sriov_numvfs, or bind \
                      it to its own driver and offer only its virtual functions.";
        findings.warn(
            Code::PhysicalFunctionShared,
            id.to_string(),
            format!("is bound to {driver} while its virtual functions are enabled"),
            advice,
        );
    }
    let resources: BTreeSet<&str> = devices.iter().map(|device| &*device.resource).collect();
    for (first, second) in variable_collisions(resources.into_iter()) {
        let what = format!("and {first} share the environment variable {}", env_name(second, false));
        let advice =
            "A container with both gets the addresses of only one of them: rename one, or give it an alias.";
        findings.warn(Code::VariableShared, second, what, advice);
    }
    let (without_vgpu, unbound): (Vec<&Device>, Vec<&Device>) =
        unbound.iter().partition(|device| device.kind == Kind::VendorVf && device.sriov == Sriov::Virtual);
    for device in without_vgpu {
        let advice =
            "Create one: write a type from its creatable_vgpu_types to its nvidia/current_vgpu_type.";
        findings.warn(Code::NoVgpu, device.id.to_string(), "is selected, but has no vGPU", advice);
    }
    let functions: Vec<PciAddress> = unbound.into_iter().filter_map(|device| device.id.pci()).collect();
    unbound::examine(facts, &functions, findings);
}

/// Moves the functions whose unbind waits for a holder from `unbound` to the findings: the driver is gone, and a process has the
/// group open. For the case that no `serve` knows them.
fn unbinding(root: &Root, unbound: &mut Vec<Device>, pods: &PodLookup<'_>, findings: &mut Findings) {
    let is_alone = |group: GroupId| {
        let mut bound = false;
        let read = root.members(group, &mut Buffer::new(), |member| {
            bound |=
                member.is_ok_and(|member| member.driver.is_some_and(|name| is_vfio_driver(name.as_bytes())));
        });
        read.is_ok() && !bound
    };
    let group = |device: &Device| device.group.filter(|_| device.driver.is_none());
    let groups: Vec<GroupId> = unbound.iter().filter_map(group).filter(|group| is_alone(*group)).collect();
    let mut holders: BTreeMap<GroupId, Vec<HolderReport>> = BTreeMap::new();
    if groups.is_empty()
        || root
            .holders(&groups, &mut |holder| holders.entry(holder.group).or_default().push((&holder).into()))
            .is_err()
    {
        return;
    }
    unbound.retain(|device| {
        let Some(holders) = group(device).and_then(|group| holders.get(&group)) else { return true };
        let id = device.id.to_string();
        let what = format!("unbinding, held by {}", pods.describe(holders));
        let advice = holders::advice_about_unbinding(&id, holders, pods);
        findings.warn(Code::Unbinding, id, what, advice);
        false
    });
}

/// Returns the physical functions that are bound to a VFIO driver while their virtual functions are enabled, with the driver, if
/// the physical function or one of its virtual functions is offered.
fn shared_functions(root: &Root, devices: &[DeviceState]) -> BTreeMap<PciAddress, DriverName> {
    let mut functions = sriov::shared(devices.iter().map(|device| &device.device));
    functions.extend(
        devices
            .iter()
            .filter(|device| device.device.sriov == Sriov::Virtual)
            .filter_map(|device| device.device.parent),
    );
    let driver = |function: PciAddress| root.device(DeviceId::Pci(function), Detail::Identity).ok()?.driver;
    let bound = functions.into_iter().filter_map(|function| Some((function, driver(function)?)));
    bound.filter(|(_, driver)| is_vfio_driver(driver.as_bytes())).collect()
}

/// Returns the selected functions that are not bound to a VFIO driver; unlike `serve`, this reads every function of the host. Functions
/// whose host driver provides vGPUs or virtual functions are left out: binding them to another driver would remove those.
fn unbound_functions(config: &Config, root: &Root, devices: &[DeviceState]) -> Vec<Device> {
    let directory = config.root.join("sys/bus/pci/devices");
    let Ok(entries) = std::fs::read_dir(&directory) else { return Vec::new() };
    let of = |device: &Device, what: &str| directory.join(device.id.to_string()).join(what);
    let mut found: Vec<Device> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| !devices.iter().any(|device| device.device.id == *id))
        .filter_map(|id| root.device(id, Detail::Full).ok())
        .filter(|device| selects(config, device))
        .filter(|device| !matches!(device.sriov, Sriov::Physical(_)))
        .filter(|device| !of(device, "mdev_supported_types").exists())
        .filter(|device| device.vgpu_type.is_none())
        .filter(|device| !can_create_none(&of(device, "nvidia/creatable_vgpu_types")))
        .collect();
    found.sort_by_key(|device| device.id);
    found
}

/// Returns whether the pools select a device. A wide selection does not select bridges, which are never passed through.
fn selects(config: &Config, device: &Device) -> bool {
    let Some((_, pool)) = config.offered.of(device) else { return false };
    device.class >> 16 != 0x06 || pool.select.iter().any(|selector| selector.address == Some(device.id))
}

/// Returns whether the function's driver lists no type of which it could create a vGPU now: the other vGPUs may use the whole GPU.
fn can_create_none(types: &Path) -> bool {
    let mut text = String::new();
    let read = open(types, Links::Follow).and_then(|(file, _)| file.take(PAGE).read_to_string(&mut text));
    read.is_ok() && !text.lines().any(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()))
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}
