//! The root: the directory below which everything is looked up, `/` or a tree like it.

use crate::host::Host;
use crate::python::arguments;
use crate::python::errors::raised;
use crate::python::group::Group;
use crate::python::listing::{Holders, Members, Scan};
use crate::python::occupancy::Occupancy;
use crate::python::values::Device;
use crate::python::wait::release;
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

impl Drop for Root {
    fn drop(&mut self) {
        release(self.host.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[pymethods]
impl Root {
    #[new]
    #[pyo3(signature = (path=None), text_signature = "(path='/')")]
    fn new(py: Python<'_>, path: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let path = path.map_or_else(|| Ok(PathBuf::from("/")), |path| arguments::path("path", path))?;
        let host = py.detach(|| Host::open(&path)).map_err(raised)?;
        Ok(Self { host: Mutex::new(Some(Arc::new(host))), path })
    }

    /// The folder that stands for `/`, as given.
    #[getter]
    fn path(&self) -> &std::ffi::OsStr {
        self.path.as_os_str()
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.host().is_err()
    }

    /// All bound devices, by id, and apart from them those that could not be read. Opens nothing.
    ///
    /// Raises ProbeError where the bound devices cannot be listed.
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

    /// One device's record by PCI address or mdev uuid; it need not be bound. Its `cdev` is None: only a scan knows it.
    fn device(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<Device> {
        let id = arguments::device_id("id", id)?;
        let device = self.call(py, |root, _| root.device(id, Detail::Full))?;
        Ok((&device).into())
    }

    /// Looks at all members of a group: whether VFIO can use it. Raises MissingError if there is no such group.
    fn group(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Group> {
        let number = arguments::group("number", number)?;
        Ok(Group::new(number, self.call(py, |root, buffer| root.group(number, buffer))?))
    }

    /// The members of a group, by name. Raises MissingError if there is no such group.
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

    /// Whether the kernel has nodes for groups; without CONFIG_VFIO_GROUP a probe of any group says absent, and a peek is what
    /// tells. Opens nothing.
    fn has_group_nodes(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, |root, _| Ok(root.has_group_nodes()))
    }

    /// Looks whether a group is held, without opening anything. Raises MissingError if there is no such group.
    fn peek(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Word> {
        let number = arguments::group("number", number)?;
        self.call(py, |root, buffer| root.peek(number, buffer)).map(Word::peek)
    }

    /// Opens the group for a moment and tells what the kernel said. While it is open, others' opens of a free group fail.
    ///
    /// Without a timeout it can block for seconds, while the kernel resets a device. With one (in seconds) the open is made
    /// in another thread, and an answer that is late is unknown.
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

    /// The processes that hold any of the groups, by group and pid, and how far the look for them reached. Opens nothing.
    ///
    /// Reads /proc of all processes: milliseconds on a busy host.
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

    /// Begins to watch. Every `interval` seconds (0.001 to 86400) it looks anew; kernel events, nodes that come and go, and
    /// exits of holders make it look at once. Opens groups only if `probe` says so, as rarely as it can. The first
    /// events tell what is there.
    #[pyo3(
        signature = (interval=None, probe=None, uevents=None, holders=None),
        text_signature = "($self, interval=1.0, probe=False, uevents=True, holders=True)"
    )]
    fn watch(
        &self,
        py: Python<'_>,
        interval: Option<&Bound<'_, PyAny>>,
        probe: Option<&Bound<'_, PyAny>>,
        uevents: Option<&Bound<'_, PyAny>>,
        holders: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Watch> {
        let defaults = monitor::Options::default();
        let probe = arguments::switch("probe", probe, false)?;
        let sources = watch::Options {
            uevents: arguments::switch("uevents", uevents, true)?,
            holders: arguments::switch("holders", holders, true)?,
        };
        let interval =
            interval.map_or(Ok(defaults.interval), |interval| arguments::interval("interval", interval))?;
        let host = self.host()?;
        let options = monitor::Options { interval, probe, ..defaults };
        Watch::new(py, &host, options, sources)
    }

    /// Closes it. Watches that came from it go on.
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
