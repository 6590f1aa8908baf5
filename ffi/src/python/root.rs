//! The root: the directory below which everything is looked up, `/` or a tree like it.

use crate::host::Host;
use crate::python::arguments;
use crate::python::errors::raised;
use crate::python::group::Group;
use crate::python::listing::{Holders, Members, Scan};
use crate::python::occupancy::Occupancy;
use crate::python::values::Device;
use crate::python::watch::Watch;
use crate::python::words::Word;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, monitor, watch};

/// The directory that holds `sys`, `dev` and `proc`.
#[pyclass(frozen, module = "vfio_probe")]
pub(crate) struct Root {
    /// None once closed. Locked only to copy the pointer, never over a system call or a call to Python.
    host: Mutex<Option<Arc<Host>>>,
    path: PathBuf,
}

impl Root {
    fn host(&self) -> PyResult<Arc<Host>> {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner).clone();
        host.ok_or_else(|| PyValueError::new_err("the root is closed"))
    }

    /// Calls the core with a buffer, detached from the interpreter.
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&vfio_probe::Root, &mut Buffer) -> vfio_probe::Result<T> + Send,
    ) -> PyResult<T> {
        let host = self.host()?;
        // Ends with the host's last use in there, since closing it is a system call too.
        py.detach(move || host.with_buffer(call)).map_err(raised)
    }
}

#[pymethods]
impl Root {
    #[new]
    #[pyo3(signature = (path=None))]
    fn new(py: Python<'_>, path: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let path = path.map_or_else(|| Ok(PathBuf::from("/")), |path| arguments::path("path", path))?;
        let host = py.detach(|| Host::open(&path)).map_err(raised)?;
        Ok(Self { host: Mutex::new(Some(Arc::new(host))), path })
    }

    #[getter]
    fn path(&self) -> &std::ffi::OsStr {
        self.path.as_os_str()
    }

    #[getter]
    fn closed(&self) -> bool {
        self.host().is_err()
    }

    fn scan(&self, py: Python<'_>) -> PyResult<Scan> {
        let (devices, broken) = self.call(py, |root, buffer| {
            let (mut devices, mut broken) = (Vec::new(), Vec::new());
            root.scan(Detail::Full, buffer, |device| match device {
                Ok(device) => devices.push(device),
                Err(error) => broken.push(error),
            })?;
            devices.sort_unstable_by_key(|device| device.id);
            Ok((devices, broken))
        })?;
        Scan::new(py, &devices, &broken)
    }

    fn device(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<Device> {
        let id = arguments::device_id("id", id)?;
        let device = self.call(py, |root, _| root.device(id, Detail::Full))?;
        Ok((&device).into())
    }

    fn group(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Group> {
        let number = arguments::group("number", number)?;
        Ok(Group::new(number, self.call(py, |root, buffer| root.group(number, buffer))?))
    }

    fn members(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Members> {
        let number = arguments::group("number", number)?;
        let (members, broken) = self.call(py, |root, buffer| {
            let (mut members, mut broken) = (Vec::new(), Vec::new());
            root.members(number, buffer, |member| match member {
                Ok(member) => members.push(member),
                Err(error) => broken.push(error),
            })?;
            members.sort_unstable_by_key(|member| member.name);
            Ok((members, broken))
        })?;
        Members::new(py, &members, &broken)
    }

    fn peek(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Word> {
        let number = arguments::group("number", number)?;
        self.call(py, |root, buffer| root.peek(number, buffer)).map(Word::peek)
    }

    #[pyo3(signature = (number, timeout=None))]
    fn probe(
        &self,
        py: Python<'_>,
        number: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Occupancy> {
        let number = arguments::group("number", number)?;
        let timeout = arguments::timeout("timeout", timeout)?;
        let host = self.host()?;
        let occupancy = py.detach(move || match timeout {
            None => host.root.probe(number),
            Some(timeout) => host.prober.probe(number, timeout),
        });
        Ok(Occupancy::new(number, occupancy))
    }

    fn holders(&self, py: Python<'_>, groups: &Bound<'_, PyAny>) -> PyResult<Holders> {
        let groups = arguments::groups("groups", groups)?;
        let (holders, looked) = self.call(py, |root, _| {
            let mut holders = Vec::new();
            let looked = root.holders(&groups, &mut |holder| holders.push(holder))?;
            holders.sort_unstable_by_key(|holder| (holder.group, holder.pid));
            Ok((holders, looked))
        })?;
        Holders::new(py, &holders, looked)
    }

    #[pyo3(signature = (interval=None, probe=false, uevents=true, holders=true))]
    fn watch(
        &self,
        py: Python<'_>,
        interval: Option<&Bound<'_, PyAny>>,
        probe: bool,
        uevents: bool,
        holders: bool,
    ) -> PyResult<Watch> {
        let defaults = monitor::Options::default();
        let interval =
            interval.map_or(Ok(defaults.interval), |interval| arguments::interval("interval", interval))?;
        let host = self.host()?;
        let options = monitor::Options { interval, probe, ..defaults };
        Watch::new(py, &host, options, watch::Options { uevents, holders })
    }

    fn close(&self, py: Python<'_>) {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(host));
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().host()?;
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, pyo3::types::PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        let closed = if self.closed() { " closed" } else { "" };
        format!("<Root {}{closed}>", self.path.display())
    }
}
