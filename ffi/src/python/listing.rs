//! Results that are lists, with the errors or the coverage next to the items. Iteration yields the items.

use crate::python::errors;
use crate::python::group::Member;
use crate::python::holders::{Holder, ScanCoverage};
use crate::python::values::Device;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};
use vfio_probe::Viability;

/// The devices bound to a VFIO driver, ordered by id, and the errors of those that could not be read.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct Scan {
    devices: Py<PyTuple>,
    errors: Py<PyTuple>,
}

impl Scan {
    pub(crate) fn new(
        py: Python<'_>,
        devices: &[vfio_probe::Device],
        failed: &[vfio_probe::Error],
    ) -> PyResult<Self> {
        Ok(Self {
            devices: PyTuple::new(py, devices.iter().map(Device::from))?.unbind(),
            errors: PyTuple::new(py, errors::values(py, failed))?.unbind(),
        })
    }
}

#[pymethods]
impl Scan {
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.devices.bind(py).try_iter()
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.devices.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<Scan {} devices, {} errors>", self.devices.bind(py).len(), self.errors.bind(py).len())
    }
}

/// The members of a group, ordered by name, and the errors of those that could not be read.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct Members {
    members: Py<PyTuple>,
    offenders: Py<PyTuple>,
    errors: Py<PyTuple>,
}

impl Members {
    pub(crate) fn new(
        py: Python<'_>,
        members: &[vfio_probe::Member],
        failed: &[vfio_probe::Error],
    ) -> PyResult<Self> {
        Ok(Self {
            members: PyTuple::new(py, members.iter().map(Member::from))?.unbind(),
            offenders: offenders(py, members)?,
            errors: PyTuple::new(py, errors::values(py, failed))?.unbind(),
        })
    }
}

/// Returns the members that make their group not viable.
pub(crate) fn offenders(py: Python<'_>, members: &[vfio_probe::Member]) -> PyResult<Py<PyTuple>> {
    let offenders: Vec<Member> = Viability::offenders(members).map(Member::from).collect();
    Ok(PyTuple::new(py, offenders)?.unbind())
}

#[pymethods]
impl Members {
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.members.bind(py).try_iter()
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.members.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<Members {}, {} errors>", self.members.bind(py).len(), self.errors.bind(py).len())
    }
}

/// The holders, ordered by group and pid, and the coverage of the scan for them.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct Holders {
    holders: Py<PyTuple>,
    coverage: ScanCoverage,
}

impl Holders {
    pub(crate) fn new(
        py: Python<'_>,
        holders: &[vfio_probe::Holder],
        coverage: vfio_probe::ScanCoverage,
    ) -> PyResult<Self> {
        Ok(Self {
            holders: PyTuple::new(py, holders.iter().map(Holder::from))?.unbind(),
            coverage: coverage.into(),
        })
    }
}

#[pymethods]
impl Holders {
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.holders.bind(py).try_iter()
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.holders.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<Holders {} of {} processes>", self.holders.bind(py).len(), self.coverage.processes)
    }
}
