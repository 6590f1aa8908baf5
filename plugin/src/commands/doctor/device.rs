//! One device: its group, its node, and who holds it.

use crate::commands::doctor::finding::Findings;
use crate::commands::doctor::kubelet::{PodClaims, Whose};
use crate::config::Config;
use crate::status::report::{DeviceReport, HolderReport};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use vfio_plugin_policy::device::{DeviceState, GroupState};
use vfio_probe::{Kind, Occupancy, UnknownReason, Viability};

/// `report` is what `list` would say of it.
pub(super) fn examine(
    config: &Config,
    view: &DeviceState,
    report: &DeviceReport,
    owners: &PodClaims<'_>,
    findings: &mut Findings,
) {
    let id = view.device.id.to_string();
    let Some(group) = &view.group else {
        let advice = match view.device.kind {
            Kind::Mdev => {
                "It cannot be given to machines by this plugin then; boot a kernel that has nodes for groups."
            }
            Kind::Pci | Kind::VendorVf => {
                "Turn on the IOMMU in the firmware and on the kernel's command line, or bind it anew."
            }
        };
        return findings.broken(id, format!("has {}", view.without_group()), advice);
    };
    if let Viability::NotViable { member, driver } = group.viability {
        let what = format!("group {} is not viable: {member} is bound to {driver}", group.id);
        let advice = format!(
            "driverctl set-override {member} vfio-pci (or none): a group is given to a machine whole, or not at all."
        );
        findings.warn(&id, what, advice);
    }
    node(config, view, group, findings);
    if view.device.kind != Kind::Pci && (config.no_probe || !group.has_node) {
        let what = "nothing but an open tells whether it is held, and none is made";
        let advice = "It is given away also while a process that is no pod's holds it. Leave --no-probe out, on a kernel that has nodes for groups.";
        findings.warn(&id, what, advice);
    }
    if report.state == "held" {
        holders(view, &report.holders, owners, findings);
    } else if !report.holders.is_empty() && matches!(owners.of(view), Whose::Nobody | Whose::Untold) {
        let what = format!("is free, but has been opened by {}", owners.name(&report.holders));
        let advice = "It is not in use until that process binds it to an iommufd; then it is held.";
        findings.warn(&id, what, advice);
    }
}

fn node(config: &Config, view: &DeviceState, group: &GroupState, findings: &mut Findings) {
    let (id, path) = (&*view.device.id.to_string(), view.node());
    let folder = config.root.join("dev/vfio");
    if !folder.is_dir() {
        return;
    }
    if folder.join(format!("noiommu-{}", group.id)).exists() {
        let what = "is used without an IOMMU (enable_unsafe_noiommu_mode)";
        return findings.warn(
            id,
            what,
            "A machine with it can write to all of the host's memory: turn on the IOMMU.",
        );
    }
    let node = config.root.join(path.trim_start_matches('/'));
    // Asks what an open would, the device cgroup too (`inode_permission`), and opens nothing.
    let access = accessat(CWD, &node, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS);
    match access {
        Err(Errno::ACCESS | Errno::PERM) => denied(id, &path, findings),
        _ if group.occupancy == Occupancy::Unknown(UnknownReason::Denied) => denied(id, &path, findings),
        Err(Errno::NOENT | Errno::NOTDIR) => {
            findings.warn(
                id,
                format!("{path} does not exist"),
                "Bind the device anew; look into dmesg for vfio, and mount all of /dev/vfio.",
            );
        }
        _ => {}
    }
}

fn denied(id: &str, path: &str, findings: &mut Findings) {
    let what = format!("{path} may not be opened from here");
    let advice = "Run as root; in a container the device cgroup must allow it. Without, give --no-probe: sysfs alone is asked.";
    findings.warn(id, what, advice);
}

fn holders(view: &DeviceState, holders: &[HolderReport], owners: &PodClaims<'_>, findings: &mut Findings) {
    let id = view.device.id.to_string();
    let by = owners.name(holders);
    let pods = || holders.iter().filter_map(|holder| holder.pod_uid.as_deref());
    let foreign = match owners.of(view) {
        Whose::Pod(pod) => {
            let other = |uid: &str| pod.uid.as_deref().is_some_and(|owner| owner != uid);
            if pods().any(other) {
                let what = format!("was given to {pod}, but is held by {by}");
                let advice = "That pod's machine cannot start before the other has ended. Look for what is left of a deleted pod.";
                findings.warn(id, what, advice);
            }
            return;
        }
        Whose::Unlisted(pod) => {
            let what = format!(
                "is held by {by}; the kubelet's checkpoint gives it to {pod}, which it does not list with it"
            );
            let advice = "An init container's device; or the pod is gone, and the checkpoint behind: a running serve finds out.";
            return findings.warn(id, what, advice);
        }
        Whose::Nobody => true,
        // Then only a holder that is in no pod is surely foreign.
        Whose::Untold => holders.is_empty() || pods().next().is_none(),
    };
    if !foreign {
        return;
    }
    let advice = if holders.is_empty() {
        format!(
            "Run `vfio-device-plugin who {id}` as root in the host's process namespace (hostPID) to see it."
        )
    } else if pods().next().is_some() {
        "The kubelet knows of no such gift: that pod was deleted by force and its machine runs on, or it has the device by \
         other means. If it should not, end that process; the device comes back by itself."
            .to_owned()
    } else {
        "No pod's process. If it should not have it, end it; the device comes back by itself.".to_owned()
    };
    findings.warn(id, format!("is held by {by}, and was given to no pod"), advice);
}
