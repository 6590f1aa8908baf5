//! Writes the series of devices, resources and assignments.

use super::{Families, Series};
use std::collections::BTreeMap;
use std::fmt;
use vfio_plugin_policy::metrics::device::{DeviceValues, State};
use vfio_plugin_policy::metrics::resource::ResourceValues;
use vfio_plugin_policy::metrics::{Pass, Values};
use vfio_plugin_policy::pools::terms::OfferBy;
use vfio_probe::Kind;
use vfio_probe::names::{self, ModelName};

/// A device's values, and its id as text.
type Labelled<'a> = (&'a DeviceValues<'a>, String);

/// Writes the series of a pass.
pub(super) fn encode(families: &mut Families<'_>, pass: &Pass) -> fmt::Result {
    let Values { devices, resources } = pass.values();
    let devices: Vec<Labelled<'_>> =
        devices.iter().map(|values| (values, values.device.device.id.to_string())).collect();
    identities(families, &devices)?;
    states(families, &devices)?;
    healths(families, &devices)?;
    assignments(families, &devices)?;
    claims(families, &devices)?;
    let known = i64::from(pass.assignments.known);
    families.gauge(
        "assignments_known",
        "Whether the kubelet shows which pods have which devices",
        |series| series.gauge(&[], known),
    )?;
    sums(families, &resources)
}

fn identities(families: &mut Families<'_>, devices: &[Labelled<'_>]) -> fmt::Result {
    // A node has few models, and each is looked up once.
    let mut models: BTreeMap<(u16, u16), Option<ModelName>> = BTreeMap::new();
    families.gauge("device_info", "Always 1; what a listed device is", |series| {
        devices.iter().try_for_each(|(values, id)| {
            let device = &values.device.device;
            let key = (device.vendor, device.device);
            let name = models.entry(key).or_insert_with(|| names::built_in(key.0, key.1));
            let group = device.group.map(|group| group.to_string()).unwrap_or_default();
            let numa_node = device.numa_node.map(|node| node.to_string()).unwrap_or_default();
            let vgpu_type = device.vgpu_type.filter(|_| device.kind != Kind::Pci);
            let model = vgpu_type
                .as_ref()
                .map_or_else(|| name.as_ref().map(ModelName::as_str), |name| Some(name.as_str()));
            let labels = [
                ("device", id.as_str()),
                ("resource", &values.device.resource),
                ("group", &group),
                ("model", model.unwrap_or_default()),
                ("numa_node", &numa_node),
                ("offer", values.offer.as_str()),
            ];
            series.gauge(&labels, 1)
        })
    })
}

fn states(families: &mut Families<'_>, devices: &[Labelled<'_>]) -> fmt::Result {
    families.gauge("device_state", "1 for the state that the device has, 0 for the others", |series| {
        devices.iter().try_for_each(|(values, id)| {
            State::ALL.into_iter().try_for_each(|state| {
                let labels = [
                    ("device", id.as_str()),
                    ("resource", &values.device.resource),
                    ("state", state.as_str()),
                ];
                series.gauge(&labels, i64::from(values.state == state))
            })
        })
    })?;
    let help = "Whether a process holds the device that belongs to no pod the device is assigned to";
    each(families, devices, "device_foreign_held", help, |values| values.foreign_held)?;
    let help = "Whether the device is still held though the pod that it was assigned to has ended";
    each(families, devices, "device_held_after_pod", help, |values| Some(values.held_after_pod))
}

fn healths(families: &mut Families<'_>, devices: &[Labelled<'_>]) -> fmt::Result {
    let help = "Whether the kubelet received the device as Healthy";
    each(families, devices, "device_healthy", help, |values| Some(values.report.unhealthy.is_none()))?;
    let help = "1 for the reason of an Unhealthy device, and for the warning about an assigned one";
    families.gauge("device_reason", help, |series| {
        devices.iter().try_for_each(|(values, id)| {
            let reasons = [("unhealthy", values.report.unhealthy), ("warning", values.report.warning)];
            let mut reasons = reasons.into_iter().filter_map(|(severity, reason)| Some((severity, reason?)));
            reasons.try_for_each(|(severity, reason)| {
                let resource = &values.device.resource;
                let labels = [
                    ("device", id.as_str()),
                    ("resource", resource),
                    ("reason", reason),
                    ("severity", severity),
                ];
                series.gauge(&labels, 1)
            })
        })
    })
}

fn assignments(families: &mut Families<'_>, devices: &[Labelled<'_>]) -> fmt::Result {
    families.gauge("device_assignment_info", "Always 1; the pod that the device is assigned to", |series| {
        devices.iter().try_for_each(|(values, id)| {
            let Some(assignment) = values.assignment else { return Ok(()) };
            let pod = &assignment.pod;
            let labels = [
                ("device", id.as_str()),
                ("resource", &assignment.resource),
                ("namespace", pod.namespace().unwrap_or_default()),
                ("pod", pod.name().unwrap_or_default()),
                ("state", if is_admitted(values) { "being_admitted" } else { "assigned" }),
            ];
            series.gauge(&labels, 1)
        })
    })
}

/// Returns whether Allocate was answered, and the kubelet does not show the pod yet. A claim for several pods names none of them.
fn is_admitted(values: &DeviceValues<'_>) -> bool {
    values.claim.is_none() && values.assignment.is_some_and(|assignment| assignment.pod.is_being_admitted())
}

/// Writes the claims of devices, and their taints.
fn claims(families: &mut Families<'_>, devices: &[Labelled<'_>]) -> fmt::Result {
    if !devices.iter().any(|(values, _)| values.offer == OfferBy::Dra) {
        return Ok(());
    }
    families.gauge("device_claim_info", "Always 1; the prepared claim that has the device", |series| {
        devices.iter().try_for_each(|(values, id)| {
            let Some(claim) = values.claim else { return Ok(()) };
            let labels = [
                ("device", id.as_str()),
                ("resource", &values.device.resource),
                ("namespace", &claim.namespace),
                ("claim", &claim.name),
                ("uid", &claim.uid),
            ];
            series.gauge(&labels, 1)
        })
    })?;
    families.gauge("device_taint", "Always 1; the taint that keeps claims from the device", |series| {
        devices.iter().try_for_each(|(values, id)| {
            let Some(taint) = values.taint else { return Ok(()) };
            let labels = [("device", id.as_str()), ("resource", &values.device.resource), ("taint", taint)];
            series.gauge(&labels, 1)
        })
    })
}

/// Writes a family with one series of 0 or 1 for each device of which the value is known.
fn each(
    families: &mut Families<'_>,
    devices: &[Labelled<'_>],
    name: &str,
    help: &str,
    value: impl Fn(&DeviceValues<'_>) -> Option<bool>,
) -> fmt::Result {
    families.gauge(name, help, |series| {
        let mut known = devices.iter().filter_map(|(values, id)| Some((values, id, value(values)?)));
        known.try_for_each(|(values, id, value)| {
            series.gauge(&[("device", id.as_str()), ("resource", &values.device.resource)], i64::from(value))
        })
    })
}

/// Name, help and value of a gauge of resources.
type Sum = (&'static str, &'static str, fn(&ResourceValues) -> i64);

fn sums(families: &mut Families<'_>, resources: &BTreeMap<&str, ResourceValues>) -> fmt::Result {
    const SUMS: [Sum; 8] = [
        ("resource_capacity", "Listed devices", |values| signed(values.capacity)),
        ("resource_allocatable", "Devices that the kubelet received as Healthy", |values| {
            signed(values.allocatable)
        }),
        ("resource_assigned", "Devices that are assigned to pods", |values| signed(values.assigned)),
        ("resource_free", "Devices that are not assigned and that no process holds", |values| {
            signed(values.free)
        }),
        ("resource_foreign_held", "Devices with vfio_device_foreign_held 1", |values| {
            signed(values.foreign_held)
        }),
        (
            "resource_unknown",
            "Devices that are not assigned and might be openable; whether they are held cannot be checked",
            |values| signed(values.unknown),
        ),
        (
            "resource_schedulable",
            "vfio_resource_allocatable - vfio_resource_assigned",
            ResourceValues::schedulable,
        ),
        ("resource_openable", "Devices that are not assigned and that a new VM could open now", |values| {
            signed(values.openable)
        }),
    ];
    SUMS.into_iter().try_for_each(|(name, help, value)| {
        families.gauge(name, help, |series: &mut Series<'_>| {
            let mut all = resources.iter();
            all.try_for_each(|(resource, values)| series.gauge(&[("resource", resource)], value(values)))
        })
    })
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
