//! All bound devices at one moment, as frozen Python values.

use crate::python::errors;
use crate::python::group::{Member, offender};
use crate::python::holders::{Holder, ScanCoverage};
use crate::python::listing::offenders;
use crate::python::occupancy::Occupancy;
use crate::python::values::Device;
use crate::python::words::Word;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};
use vfio_probe::GroupId;

/// All bound devices at one moment, ordered by id, with their groups and holders, and the errors of those that could not
/// be read.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct Snapshot {
    devices: Py<PyTuple>,
    groups: Py<PyTuple>,
    coverage: ScanCoverage,
    errors: Py<PyTuple>,
}

/// The state of an IOMMU group at one moment.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct GroupSnapshot {
    number: u32,
    members: Py<PyTuple>,
    occupancy: Occupancy,
    evidence: Word,
    peek: Word,
    viable: bool,
    offender: Option<String>,
    offender_driver: Option<String>,
    offenders: Py<PyTuple>,
    holders: Py<PyTuple>,
}

impl Snapshot {
    pub(crate) fn new(py: Python<'_>, snapshot: &vfio_probe::Snapshot) -> PyResult<Self> {
        let groups: Vec<GroupSnapshot> =
            snapshot.groups.iter().map(|group| GroupSnapshot::new(py, group)).collect::<PyResult<_>>()?;
        Ok(Self {
            devices: PyTuple::new(py, snapshot.devices.iter().map(Device::from))?.unbind(),
            groups: PyTuple::new(py, groups)?.unbind(),
            coverage: snapshot.coverage.into(),
            errors: PyTuple::new(py, errors::values(py, &snapshot.errors))?.unbind(),
        })
    }
}

impl GroupSnapshot {
    fn new(py: Python<'_>, group: &vfio_probe::GroupSnapshot) -> PyResult<Self> {
        let (offender, offender_driver) = offender(group.viability);
        Ok(Self {
            number: group.id.0,
            members: PyTuple::new(py, group.members.iter().map(Member::from))?.unbind(),
            occupancy: Occupancy::new(group.id, group.occupancy),
            evidence: Word::evidence(group.evidence),
            peek: Word::peek(group.peek),
            viable: group.viability.is_viable(),
            offender,
            offender_driver,
            offenders: offenders(py, &group.members)?,
            holders: PyTuple::new(py, group.holders.iter().map(Holder::from))?.unbind(),
        })
    }
}

#[pymethods]
impl Snapshot {
    /// Returns a group by its number, or None if no device of the snapshot is in it.
    fn group<'py>(&self, py: Python<'py>, number: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let GroupId(number) = crate::python::arguments::group("number", number)?;
        for group in self.groups.bind(py) {
            if group.cast::<GroupSnapshot>()?.get().number == number {
                return Ok(Some(group));
            }
        }
        Ok(None)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.devices.bind(py).try_iter()
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.devices.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let [devices, groups, errors] =
            [&self.devices, &self.groups, &self.errors].map(|items| items.bind(py).len());
        format!("<Snapshot {devices} devices, {groups} groups, {errors} errors>")
    }
}

#[pymethods]
impl GroupSnapshot {
    fn __repr__(&self, py: Python<'_>) -> String {
        let (state, evidence, holders) = (self.occupancy.word(), self.evidence, self.holders.bind(py).len());
        format!("<GroupSnapshot {} {state} evidence {evidence}, {holders} holders>", self.number)
    }
}
