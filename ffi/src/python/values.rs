//! The values about devices and groups.

use crate::python::value::{Value, tuple, value};
use crate::python::words::Word;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use vfio_probe::{GroupId, Sriov, Text, UnknownReason, Viability};

pub(crate) fn device<'py>(py: Python<'py>, device: &vfio_probe::Device) -> PyResult<Value<'py>> {
    value!(py, _values.Device {
        id: device.id.to_string(),
        vendor: device.vendor,
        device: device.device,
        subsystem_vendor: device.subsystem_vendor,
        subsystem_device: device.subsystem_device,
        class_code: device.class,
        driver: device.driver.as_ref().map(Text::as_str),
        group: device.group.map(|group| group.0),
        numa_node: device.numa_node,
        sriov: Word::sriov(device.sriov),
        vfs: if let Sriov::Physical(count) = device.sriov { count } else { 0 },
        cdev: device.cdev,
        kind: Word::kind(device.kind),
        vgpu_type: device.vgpu_type.as_ref().map(Text::as_str),
        parent: device.parent.map(|parent| parent.to_string()),
    })
}

pub(crate) fn group(
    py: Python<'_>,
    id: GroupId,
    group: vfio_probe::group::GroupSummary,
) -> PyResult<Value<'_>> {
    let (offender, offender_driver) = offender(&group.viability);
    value!(py, _values.Group {
        group: id.0,
        members: group.members,
        unreadable: group.unreadable,
        viable: group.viability.is_viable(),
        offender: offender,
        offender_driver: offender_driver,
        offenders: group.offenders,
    })
}

pub(crate) fn member<'py>(py: Python<'py>, member: &vfio_probe::Member) -> PyResult<Value<'py>> {
    value!(py, _values.Member {
        name: member.name.as_str(),
        driver: member.driver.as_ref().map(Text::as_str),
        vfio: member.vfio,
        offends: !member.keeps_group_viable(),
    })
}

pub(crate) fn holder<'py>(py: Python<'py>, holder: &vfio_probe::Holder) -> PyResult<Value<'py>> {
    value!(py, _values.Holder {
        group: holder.group.0,
        pid: holder.pid,
        start_time: holder.start_time,
        command: holder.command.as_str(),
        via: Word::via(holder.via),
        uid: holder.uid,
        started: holder.started(),
        in_pod: Word::in_pod(holder.container.in_pod),
        pod_uid: holder.container.pod_uid.map(|uid| uid.to_string()),
        container_id: holder.container.container_id.map(|id| id.to_string()),
    })
}

pub(crate) fn coverage(py: Python<'_>, coverage: vfio_probe::ScanCoverage) -> PyResult<Value<'_>> {
    value!(py, _values.ScanCoverage {
        processes: coverage.processes,
        unreadable: coverage.unreadable,
        unattributed: coverage.unattributed,
        unsearched: coverage.unsearched,
        pid_namespace: Word::pid_namespace(coverage.pid_namespace),
    })
}

pub(crate) fn holders<'py>(
    py: Python<'py>,
    holders: &[vfio_probe::Holder],
    coverage: vfio_probe::ScanCoverage,
) -> PyResult<Value<'py>> {
    value!(py, _values.Holders {
        holders: tuple(py, holders, holder)?,
        coverage: self::coverage(py, coverage)?,
    })
}

pub(crate) fn occupancy(
    py: Python<'_>,
    group: GroupId,
    occupancy: vfio_probe::Occupancy,
) -> PyResult<Value<'_>> {
    let reason = match occupancy {
        vfio_probe::Occupancy::Unknown(reason) => Some(reason),
        _ => None,
    };
    value!(py, _values.Occupancy {
        group: group.0,
        state: Word::state(occupancy),
        unknown_reason: reason.map(Word::unknown_reason),
        errno: if let Some(UnknownReason::Errno(errno)) = reason { errno } else { 0 },
    })
}

pub(crate) fn device_nodes(
    py: Python<'_>,
    group: GroupId,
    nodes: vfio_probe::DeviceNodes,
) -> PyResult<Value<'_>> {
    let devices = nodes.devices.into_iter().map(|(device, node)| (device.to_string(), node));
    value!(py, _values.DeviceNodes {
        group: group.0,
        container: nodes.container,
        group_node: nodes.group,
        iommufd: nodes.iommufd,
        devices: tuple(py, devices, |py, pair| pair.into_bound_py_any(py))?,
    })
}

pub(crate) fn hardware(
    py: Python<'_>,
    function: vfio_probe::PciAddress,
    hardware: vfio_probe::Hardware,
) -> PyResult<Value<'_>> {
    value!(py, _values.Hardware {
        device: function.to_string(),
        presence: Word::presence(hardware.presence),
        fatal_errors: hardware.fatal_errors,
    })
}

/// Returns the first member with a driver that makes the group not viable, and its driver.
pub(crate) fn offender(viability: &Viability) -> (Option<&str>, Option<&str>) {
    match viability {
        Viability::Viable => (None, None),
        Viability::NotViable { member, driver } => (Some(member.as_str()), Some(driver.as_str())),
    }
}
