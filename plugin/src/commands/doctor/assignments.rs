//! Checks the devices that are assigned to pods: whether they are bound, and whether the answers that the kubelet stores still fit.

use crate::commands::doctor::finding::{Code, Findings};
use crate::commands::doctor::pods::PodLookup;
use crate::config::Config;
use crate::node::special_nodes::with_special_nodes;
use crate::status::report::DeviceReport;
use std::collections::BTreeMap;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::record::Assignment;
use vfio_plugin_policy::assignments::stored_answer::stale::{Mismatch, StaleAnswer, stale_answers};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, Device, DeviceId, Root};

/// Adds assigned devices that are not bound, as [`unbound`] returned them, and stale answers. `devices` are the offered devices.
pub(super) fn examine(
    root: &Root,
    devices: &[DeviceState],
    not_bound_with_pods: &BTreeMap<DeviceId, String>,
    pods: &PodLookup<'_>,
    findings: &mut Findings,
) {
    let assigned = pods.assignments();
    for (id, pod) in not_bound_with_pods {
        not_bound(root, *id, pod, findings);
    }
    let snapshot = snapshot(root, devices, assigned);
    let snapshot = with_special_nodes(root, &snapshot, assigned.name_special_nodes());
    for stale in stale_answers(assigned.records(), &snapshot) {
        stale_answer(&stale, pods, findings);
    }
}

/// Returns the assigned devices of this plugin's resources that are not bound to a VFIO driver, with their pods in words.
/// `reported` are the devices of a running `serve`.
pub(super) fn unbound(
    config: &Config,
    root: &Root,
    devices: &[DeviceState],
    reported: &[DeviceReport],
    pods: &PodLookup<'_>,
) -> BTreeMap<DeviceId, String> {
    let mut found = BTreeMap::new();
    let is_offered = |id: DeviceId| devices.iter().any(|device| device.device.id == id);
    for report in reported {
        if let (Ok(id), Some(pod)) = (report.address.parse(), &report.assignment) {
            found.insert(id, format!("pod {pod}"));
        }
    }
    for assignment in pods.assignments().records() {
        let is_served = devices.iter().any(|device| *device.resource == *assignment.resource)
            || reported.iter().any(|device| device.resource == assignment.resource);
        for id in assignment.device_ids.iter().filter_map(|id| id.parse::<DeviceId>().ok()) {
            let record = root.device(id, Detail::Identity).ok();
            let in_pools = || config.offered.of_assigned(&assignment.resource, id, record.as_ref()).is_some();
            if is_served || in_pools() {
                found.entry(id).or_insert_with(|| describe(assignment, pods));
            }
        }
    }
    found.retain(|id, _| !is_offered(*id) && !is_bound(root, *id));
    found
}

/// Returns the pod in words.
fn describe(assignment: &Assignment, pods: &PodLookup<'_>) -> String {
    let note = if pods.shows(assignment) { "" } else { " (pod resources do not list it: it may have ended)" };
    format!("{}{note}", assignment.pod)
}

/// Returns whether a device is bound to a VFIO driver.
fn is_bound(root: &Root, id: DeviceId) -> bool {
    let group = root.device(id, Detail::Identity).ok().and_then(|device| device.group);
    let members = group.and_then(|group| root.cdevs(group, &mut Buffer::new()).ok());
    members.is_some_and(|members| members.iter().any(|(member, _)| *member == id))
}

fn not_bound(root: &Root, id: DeviceId, pod: &str, findings: &mut Findings) {
    let stays = "until then the device stays listed and counts as requested.";
    let (code, what, advice) = match root.device(id, Detail::Identity) {
        Ok(Device { driver: Some(driver), .. }) => {
            let what =
                format!("is assigned to {pod} and is no longer bound to a VFIO driver: {driver} has it");
            (
                Code::NoLongerBound,
                what,
                format!("Stop what uses it and bind it again, or delete the pod; {stays}"),
            )
        }
        Ok(Device { driver: None, .. }) => {
            let what = format!("is assigned to {pod} and is no longer bound to a VFIO driver");
            (Code::NoLongerBound, what, format!("Bind it again, or delete the pod; {stays}"))
        }
        Err(_) if !root.has(id) => {
            let what = format!("is assigned to {pod} and is gone: it does not exist any more");
            let advice = "Delete the pod; the kernel's log says when the device left, and why;";
            (Code::Gone, what, format!("{advice} {stays}"))
        }
        // It exists and cannot be read, which is another finding.
        Err(_) => return,
    };
    findings.warn(code, id.to_string(), what, advice);
}

/// Returns the node as the comparison needs it: the offered devices, and the assigned ones.
fn snapshot(root: &Root, devices: &[DeviceState], assigned: &Assignments) -> NodeSnapshot {
    let mut snapshot = NodeSnapshot { devices: devices.to_vec().into(), ..NodeSnapshot::default() };
    let ids = assigned.records().flat_map(|assignment| &assignment.device_ids);
    for id in ids.filter_map(|id| id.parse::<DeviceId>().ok()) {
        if snapshot.record(id).is_some() {
            continue;
        }
        match root.device(id, Detail::Identity) {
            Ok(device) => snapshot.not_offered.push(device),
            Err(_) if !root.has(id) => {
                snapshot.missing.insert(id);
            }
            Err(_) => {}
        }
    }
    snapshot
}

fn stale_answer(stale: &StaleAnswer<'_>, pods: &PodLookup<'_>, findings: &mut Findings) {
    let Mismatch { device, stored, now, owners } = &stale.mismatch;
    let pod = describe(stale.assignment, pods);
    let now = now.as_ref().map_or_else(|| "has no such node".to_owned(), |now| format!("is {now}"));
    let owners: Vec<String> = owners.iter().map(ToString::to_string).collect();
    let of = if owners.is_empty() { "no offered device".to_owned() } else { owners.join(", ") };
    let what = format!(
        "is assigned to {pod}, which the kubelet starts with {stored}, by a stored answer of Allocate from before a reboot or a \
         bind; the device {now} now, and {stored} belongs to {of}"
    );
    let advice = "Delete the pod: the pod that replaces it gets the right device node. Until then a container of the pod may open the \
                  other device, so no pod is allocated that one.";
    findings.warn(Code::StaleAnswer, device.to_string(), what, advice);
}
