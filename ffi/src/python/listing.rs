//! Lists that keep apart what they could not read, or how far they reached; iterating gives the items.

use crate::python::errors;
use crate::python::group::Member;
use crate::python::holders::{Holder, Looked};
use crate::python::values::Device;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};

/// The bound devices, and those that could not be read.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct Scan {
    devices: Py<PyTuple>,
    broken: Py<PyTuple>,
}

impl Scan {
    pub(crate) fn new(
        py: Python<'_>,
        devices: &[vfio_probe::Device],
        broken: &[vfio_probe::Error],
    ) -> PyResult<Self> {
        Ok(Self {
            devices: PyTuple::new(py, devices.iter().map(Device::from))?.unbind(),
            broken: PyTuple::new(py, errors::values(py, broken))?.unbind(),
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
        format!("<Scan {} devices, {} broken>", self.devices.bind(py).len(), self.broken.bind(py).len())
    }
}

/// A group's members, and those that could not be read.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct Members {
    members: Py<PyTuple>,
    broken: Py<PyTuple>,
}

impl Members {
    pub(crate) fn new(
        py: Python<'_>,
        members: &[vfio_probe::Member],
        broken: &[vfio_probe::Error],
    ) -> PyResult<Self> {
        Ok(Self {
            members: PyTuple::new(py, members.iter().map(Member::from))?.unbind(),
            broken: PyTuple::new(py, errors::values(py, broken))?.unbind(),
        })
    }
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
        format!("<Members {}, {} broken>", self.members.bind(py).len(), self.broken.bind(py).len())
    }
}

/// The holders found, and how far the look reached.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct Holders {
    holders: Py<PyTuple>,
    looked: Looked,
}

impl Holders {
    pub(crate) fn new(
        py: Python<'_>,
        holders: &[vfio_probe::Holder],
        looked: vfio_probe::ScanCoverage,
    ) -> PyResult<Self> {
        Ok(Self {
            holders: PyTuple::new(py, holders.iter().map(Holder::from))?.unbind(),
            looked: looked.into(),
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
        format!("<Holders {} of {} processes>", self.holders.bind(py).len(), self.looked.processes)
    }
}
