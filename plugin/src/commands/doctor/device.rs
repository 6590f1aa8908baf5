//! Checks one device: its group, its device node, and its holders.

use crate::commands::doctor::finding::{Code, Findings};
use crate::commands::doctor::holders;
use crate::commands::doctor::pods::{PodLookup, PodOf};
use crate::commands::doctor::unbound;
use crate::config::Config;
use crate::node::function_facts::FactsReader;
use crate::status::report::DeviceReport;
use crate::status::words::StateWord;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use vfio_plugin_policy::device::{DeviceState, GroupState};
use vfio_probe::{Buffer, Kind, Member, Occupancy, Root, UnknownReason};

/// Adds what is wrong with a device. `report` is its record in `list`.
pub(super) fn examine(
    (config, root, facts): (&Config, &Root, &FactsReader),
    device: &DeviceState,
    report: &DeviceReport,
    pods: &PodLookup<'_>,
    findings: &mut Findings,
) {
    let id = device.device.id.to_string();
    let Some(group) = &device.group else {
        let advice = match device.device.kind {
            Kind::Mdev => "The plugin cannot allocate it: boot a kernel with CONFIG_VFIO_GROUP.",
            _ => {
                "Turn on the IOMMU in the firmware and on the kernel command line, or bind the device again."
            }
        };
        return findings.broken(Code::NoGroup, id, format!("has {}", device.no_group_text()), advice);
    };
    if !group.viability.is_viable() {
        viability(root, facts, device, group, findings);
    }
    node(config, device, group, findings);
    if device.device.kind != Kind::Pci && (config.no_probe || !group.has_node) {
        let what = "only a probe can detect its holders, and probes are off";
        let advice = "It is reported as free and allocated even while a foreign process holds it. Run without --no-probe, on a kernel with CONFIG_VFIO_GROUP.";
        findings.warn(Code::HoldersUndetectable, &id, what, advice);
    }
    if report.state == StateWord::Held {
        holders::examine(device, &report.holders, pods, findings);
    } else if !report.holders.is_empty() && matches!(pods.of(device), PodOf::None | PodOf::NotKnown) {
        let what = format!("is free, but {} has it open", pods.describe(&report.holders));
        let advice = "The device is not in use until that process binds it to an iommufd; then it is held.";
        findings.warn(Code::OpenUnbound, &id, what, advice);
    }
}

/// Adds all members that keep a group from being viable, each with what to do about it.
fn viability(
    root: &Root,
    facts: &FactsReader,
    device: &DeviceState,
    group: &GroupState,
    findings: &mut Findings,
) {
    let mut offenders: Vec<Member> = Vec::new();
    let _ = root.members(group.id, &mut Buffer::new(), |member| {
        offenders.extend(member.ok().filter(|member| !member.keeps_group_viable()));
    });
    offenders.sort_by_key(|member| member.name);
    let bound = |member: &Member| {
        let driver = member.driver.map(|driver| driver.to_string()).unwrap_or_default();
        format!("{} is bound to {driver}", member.name)
    };
    let bound: Vec<String> = offenders.iter().map(bound).collect();
    let mut advice: Vec<String> =
        offenders.iter().map(|member| unbound::member_advice(facts, member)).collect();
    advice.push("A VM gets a whole group or nothing.".to_owned());
    let what = format!("group {} is not viable: {}", group.id, bound.join(", "));
    findings.warn(Code::NotViable, device.device.id.to_string(), what, advice.join(" "));
}

fn node(config: &Config, device: &DeviceState, group: &GroupState, findings: &mut Findings) {
    let (id, path) = (&*device.device.id.to_string(), device.node_path());
    let directory = config.root.join("dev/vfio");
    if !directory.is_dir() {
        return;
    }
    if directory.join(format!("noiommu-{}", group.id)).exists() {
        let what = "is used without an IOMMU (enable_unsafe_noiommu_mode)";
        return findings.warn(
            Code::NoIommuMode,
            id,
            what,
            "A VM with it can write to all of the host's memory: turn on the IOMMU.",
        );
    }
    let node = config.root.join(path.trim_start_matches('/'));
    // Checks what an open would check, the device cgroup too (`inode_permission`), without opening.
    let access = accessat(CWD, &node, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS);
    match access {
        Err(Errno::ACCESS | Errno::PERM) => denied(id, &path, findings),
        _ if group.occupancy == Occupancy::Unknown(UnknownReason::Denied) => denied(id, &path, findings),
        Err(Errno::NOENT | Errno::NOTDIR) => {
            findings.warn(
                Code::NoDeviceNode,
                id,
                format!("{path} does not exist"),
                "Bind the device again; search dmesg for vfio, and mount all of /dev/vfio.",
            );
        }
        _ => {}
    }
}

fn denied(id: &str, path: &str, findings: &mut Findings) {
    let what = format!("{path} cannot be opened from here: permission denied");
    let advice = "Run as root; in a container the device cgroup must allow it. With --no-probe the plugin only reads sysfs.";
    findings.warn(Code::DeviceNodeDenied, id, what, advice);
}
