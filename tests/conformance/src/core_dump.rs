//! Converts all results of the core for a tree to JSON.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::UNIX_EPOCH;
use vfio_probe::device::Detail;
use vfio_probe::{
    Buffer, Device, Error, GroupId, GroupSnapshot, Occupancy, Root, Sriov, UnknownReason, Viability,
};

/// Returns the document in the form that the programs of the other languages print.
pub(crate) fn dump(path: &Path) -> Value {
    read(path).unwrap_or_else(|error| json!({ "error": failure(&error) }))
}

fn read(path: &Path) -> vfio_probe::Result<Value> {
    let root = Root::open(path)?;
    let mut buffer = Buffer::new();
    let (mut devices, mut errors) = (Vec::new(), Vec::new());
    root.scan(Detail::Full, &mut buffer, |device| match device {
        Ok(device) => devices.push(device),
        Err(error) => errors.push(error),
    })?;
    devices.sort_by_key(|device| device.id.to_string());
    errors.sort_by_key(ToString::to_string);
    let groups: BTreeSet<GroupId> = devices.iter().filter_map(|device| device.group).collect();
    let groups: Vec<GroupId> = groups.into_iter().collect();
    let mut holders = Vec::new();
    let coverage = root.holders(&groups, &mut |holder| holders.push(holder))?;
    holders.sort_by_key(|holder| (holder.group, holder.pid));
    let holders: Vec<Value> = holders
        .iter()
        .map(|holder| {
            json!({
                "group": holder.group.0, "pid": holder.pid, "start_time": holder.start_time,
                "started": holder.started().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|at| at.as_secs()),
                "uid": holder.uid, "command": holder.command.as_str(), "via": holder.via.as_str(),
                "in_pod": holder.container.in_pod.as_str(),
                "pod_uid": holder.container.pod_uid.map(|uid| uid.to_string()),
                "container_id": holder.container.container_id.map(|id| id.to_string()),
            })
        })
        .collect();
    Ok(json!({
        "group_nodes": root.has_group_nodes(),
        "devices": devices.iter().map(device).collect::<Vec<_>>(),
        "errors": errors.iter().map(failure).collect::<Vec<_>>(),
        "groups": groups.iter().map(|&id| group(&root, id, &mut buffer)).collect::<Vec<_>>(),
        "holders": holders,
        "coverage": {
            "processes": coverage.processes, "unreadable": coverage.unreadable, "unattributed": coverage.unattributed,
            "unsearched": coverage.unsearched, "pid_namespace": coverage.pid_namespace.as_str(),
            "complete": coverage.is_complete(),
        },
        "snapshot": root.snapshot(Detail::Full, None)?.groups.iter().map(seen).collect::<Vec<_>>(),
    }))
}

fn seen(group: &GroupSnapshot) -> Value {
    let holders: Vec<u32> = group.holders.iter().map(|holder| holder.pid).collect();
    json!({
        "group": group.id.0, "state": group.occupancy.as_str(), "evidence": group.evidence.as_str(), "holders": holders,
    })
}

pub(crate) fn failure(error: &Error) -> Value {
    json!({
        "device": error.device.map(|id| id.to_string()), "group": error.group.map(|id| id.0),
        "kind": error.kind.as_str(), "errno": error.errno, "text": error.to_string(),
    })
}

fn device(device: &Device) -> Value {
    let vfs = match device.sriov {
        Sriov::Physical(count) => count,
        Sriov::None | Sriov::Virtual => 0,
    };
    json!({
        "id": device.id.to_string(), "vendor": device.vendor, "device": device.device,
        "subsystem_vendor": device.subsystem_vendor, "subsystem_device": device.subsystem_device,
        "class": device.class, "driver": device.driver.map(|driver| driver.to_string()),
        "group": device.group.map(|id| id.0), "numa_node": device.numa_node,
        "sriov": device.sriov.as_str(), "vfs": vfs, "cdev": device.cdev, "kind": device.kind.as_str(),
        "vgpu_type": device.vgpu_type.map(|kind| kind.to_string()),
        "parent": device.parent.map(|parent| parent.to_string()),
    })
}

fn group(root: &Root, id: GroupId, buffer: &mut Buffer) -> Value {
    let occupancy = root.probe(id);
    let (reason, errno) = match occupancy {
        Occupancy::Unknown(why @ UnknownReason::Errno(errno)) => (Some(why.as_str()), errno),
        Occupancy::Unknown(why) => (Some(why.as_str()), 0),
        Occupancy::Free | Occupancy::Held | Occupancy::Absent => (None, 0),
    };
    let (mut members, mut errors) = (Vec::new(), Vec::new());
    let summary = root.group(id, buffer).and_then(|summary| {
        root.members(id, buffer, |member| match member {
            Ok(member) => members.push(member),
            Err(error) => errors.push(error.to_string()),
        })?;
        Ok(summary)
    });
    let summary = match summary {
        Ok(summary) => summary,
        Err(error) => {
            return json!({
                "group": id.0, "error": failure(&error), "state": occupancy.as_str(), "unknown_reason": reason, "errno": errno,
            });
        }
    };
    members.sort_by_key(|member| member.name);
    errors.sort();
    let members: Vec<Value> = members
        .iter()
        .map(|member| {
            let driver = member.driver.map(|driver| driver.to_string());
            json!({ "name": member.name.as_str(), "driver": driver, "vfio": member.vfio, "offends": !member.keeps_group_viable() })
        })
        .collect();
    let (offender, offender_driver) = match summary.viability {
        Viability::Viable => (None, None),
        Viability::NotViable { member, driver } => (Some(member.to_string()), Some(driver.to_string())),
    };
    json!({
        "group": id.0, "viable": summary.viability.is_viable(), "unreadable": summary.unreadable,
        "offender": offender, "offender_driver": offender_driver, "offenders": summary.offenders, "members": members, "errors": errors,
        "peek": root.peek(id, buffer).map_or_else(|error| failure(&error), |peek| json!(peek.as_str())),
        "state": occupancy.as_str(), "unknown_reason": reason, "errno": errno,
    })
}
