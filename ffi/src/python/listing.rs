//! Results that are lists, with the errors beside the items.

use crate::python::errors;
use crate::python::kept::KeptDevices;
use crate::python::value::{Value, tuple, value};
use crate::python::values::{coverage, holder, member, occupancy, offender};
use crate::python::words::Word;
use pyo3::prelude::*;
use vfio_probe::Error;

pub(crate) fn scan<'py>(
    py: Python<'py>,
    kept: &KeptDevices,
    devices: &[vfio_probe::Device],
    failed: &[Error],
) -> PyResult<Value<'py>> {
    value!(py, _values.Scan {
        devices: tuple(py, devices, |py, device| kept.read(py, device, devices.len()))?,
        errors: errors::values(py, failed)?,
    })
}

pub(crate) fn members<'py>(
    py: Python<'py>,
    members: &[vfio_probe::Member],
    failed: &[Error],
) -> PyResult<Value<'py>> {
    value!(py, _values.Members {
        members: tuple(py, members, member)?,
        errors: errors::values(py, failed)?,
    })
}

pub(crate) fn snapshot<'py>(
    py: Python<'py>,
    kept: &KeptDevices,
    snapshot: &vfio_probe::Snapshot,
) -> PyResult<Value<'py>> {
    let count = snapshot.devices.len();
    value!(py, _values.Snapshot {
        devices: tuple(py, &snapshot.devices, |py, device| kept.read(py, device, count))?,
        groups: tuple(py, &snapshot.groups, group_snapshot)?,
        coverage: coverage(py, snapshot.coverage)?,
        errors: errors::values(py, &snapshot.errors)?,
    })
}

fn group_snapshot<'py>(py: Python<'py>, group: &vfio_probe::GroupSnapshot) -> PyResult<Value<'py>> {
    let (offender, offender_driver) = offender(&group.viability);
    value!(py, _values.GroupSnapshot {
        group: group.id.0,
        occupancy: occupancy(py, group.id, group.occupancy)?,
        evidence: Word::evidence(group.evidence),
        peek: Word::peek(group.peek),
        viable: group.viability.is_viable(),
        offender: offender,
        offender_driver: offender_driver,
        members: tuple(py, &group.members, member)?,
        holders: tuple(py, &group.holders, holder)?,
    })
}
