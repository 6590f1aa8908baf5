//! The root: the directory that contains sys, dev and proc.

use crate::host::Host;
use crate::python::arguments;
use crate::python::errors::raised;
use crate::python::kept::KeptDevices;
use crate::python::value::Value;
use crate::python::wait::release;
use crate::python::watch::Watch;
use crate::python::words::Word;
use crate::python::{listing, unclosed, values};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, watch};

/// A directory that contains sys, dev and proc: `/`, or a host's root file system mounted into a container.
///
/// A context manager. Any number of threads may use a root at the same time. Raises MissingError or another
/// ProbeError if the directory cannot be opened.
#[pyclass(frozen, module = "vfio_probe")]
pub(crate) struct Root {
    /// None after close(). Locked only to copy the pointer, never during a system call or a call of Python.
    host: Mutex<Option<Arc<Host>>>,
    path: PathBuf,
    devices: KeptDevices,
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
        // The last user drops the host inside the closure, because closing it is a system call.
        py.detach(move || host.with_buffer(call)).map_err(raised)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let host = self.host.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if host.is_some() {
            unclosed::warn(&format!("root {}", self.path.display()));
        }
        release(host);
    }
}

#[pymethods]
impl Root {
    #[new]
    #[pyo3(signature = (path=None), text_signature = "(path='/')")]
    fn new(py: Python<'_>, path: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let path = path.map_or_else(|| Ok(PathBuf::from("/")), |path| arguments::path("path", path))?;
        let host = py.detach(|| Host::open(&path)).map_err(raised)?;
        Ok(Self { host: Mutex::new(Some(Arc::new(host))), path, devices: KeptDevices::new() })
    }

    /// The path of the root, as passed to Root().
    #[getter]
    fn path(&self) -> &std::ffi::OsStr {
        self.path.as_os_str()
    }

    /// True if the root is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.host().is_err()
    }

    /// Lists the devices bound to a VFIO driver, ordered by id. Opens no device.
    ///
    /// A device that cannot be read is in the errors of the result. Raises ProbeError if the bound devices cannot be
    /// listed.
    fn scan<'py>(&self, py: Python<'py>) -> PyResult<Value<'py>> {
        let (devices, errors) = self.call(py, |root, buffer| {
            let (mut devices, mut errors) = (Vec::new(), Vec::new());
            root.scan(Detail::Full, buffer, |device| match device {
                Ok(device) => devices.push(device),
                Err(error) => errors.push(error),
            })?;
            devices.sort_unstable_by_key(|device| device.id);
            Ok((devices, errors))
        })?;
        listing::scan(py, &self.devices, &devices, &errors)
    }

    /// Reads one device by PCI address or mdev UUID, bound to a VFIO driver or not. Its cdev is None: only scan()
    /// sets it.
    ///
    /// Raises MissingError if there is no such device.
    fn device<'py>(&self, py: Python<'py>, id: &Bound<'_, PyAny>) -> PyResult<Value<'py>> {
        let id = arguments::device_id("id", id)?;
        let device = self.call(py, |root, _| root.device(id, Detail::Full))?;
        self.devices.read(py, &device, 1)
    }

    /// Reads a group: the count of its members and whether VFIO can use it. Opens no device.
    ///
    /// Raises MissingError if there is no such group.
    fn group<'py>(&self, py: Python<'py>, group: &Bound<'_, PyAny>) -> PyResult<Value<'py>> {
        let group = arguments::group("group", group)?;
        values::group(py, group, self.call(py, |root, buffer| root.group(group, buffer))?)
    }

    /// Lists the members of a group, ordered by name. Opens no device.
    ///
    /// A member that cannot be read is in the errors of the result. Raises MissingError if there is no such group.
    fn members<'py>(&self, py: Python<'py>, group: &Bound<'_, PyAny>) -> PyResult<Value<'py>> {
        let group = arguments::group("group", group)?;
        let (members, errors) = self.call(py, |root, buffer| {
            let (mut members, mut errors) = (Vec::new(), Vec::new());
            root.members(group, buffer, |member| match member {
                Ok(member) => members.push(member),
                Err(error) => errors.push(error),
            })?;
            members.sort_unstable_by_key(|member| member.name);
            Ok((members, errors))
        })?;
        listing::members(py, &members, &errors)
    }

    /// Returns True if the kernel has device nodes for groups. Opens no device.
    ///
    /// Without CONFIG_VFIO_GROUP the kernel has none, and every probe returns absent; use peek() instead.
    fn has_group_nodes(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, |root, _| Ok(root.has_group_nodes()))
    }

    /// Reads the sysfs attribute enable of the functions of a group. Opens no device and disturbs no other process.
    ///
    /// Raises MissingError if there is no such group.
    fn peek(&self, py: Python<'_>, group: &Bound<'_, PyAny>) -> PyResult<Word> {
        let group = arguments::group("group", group)?;
        self.call(py, |root, buffer| root.peek(group, buffer)).map(Word::peek)
    }

    /// Opens the device node of a group and closes it at once. During a probe of a free group, the open of another
    /// process fails with EBUSY.
    ///
    /// Without a timeout the call blocks for seconds while the kernel resets a device of the group. With a timeout,
    /// in seconds, a helper thread opens the node. Without a result by then the state is unknown, with the reason
    /// timed-out.
    #[pyo3(signature = (group, timeout=None))]
    fn probe<'py>(
        &self,
        py: Python<'py>,
        group: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Value<'py>> {
        let group = arguments::group("group", group)?;
        let timeout = arguments::timeout("timeout", timeout)?;
        let host = self.host()?;
        let occupancy = py.detach(move || match timeout {
            None => host.root.probe(group),
            Some(timeout) => host.prober.probe(group, timeout),
        });
        values::occupancy(py, group, occupancy)
    }

    /// Finds the processes that hold any of the groups. Opens no device.
    ///
    /// Reads /proc of all processes, which takes milliseconds on a busy host: pass all groups in one call. Processes
    /// of other users need CAP_SYS_PTRACE. Raises ProbeError if /proc cannot be listed.
    fn holders<'py>(&self, py: Python<'py>, groups: &Bound<'_, PyAny>) -> PyResult<Value<'py>> {
        let groups = arguments::groups("groups", groups)?;
        let (holders, coverage) = self.call(py, |root, _| {
            let mut holders = Vec::new();
            let coverage = root.holders(&groups, &mut |holder| holders.push(holder))?;
            holders.sort_unstable_by_key(|holder| (holder.group, holder.pid));
            Ok((holders, coverage))
        })?;
        values::holders(py, &holders, coverage)
    }

    /// Returns the device nodes that a VM needs to use the devices of a group. Opens none of them.
    ///
    /// The source is sysfs. The kernel reuses numbers of nodes, so do not keep the result. Raises MissingError if there
    /// is no such group.
    fn device_nodes<'py>(&self, py: Python<'py>, group: &Bound<'_, PyAny>) -> PyResult<Value<'py>> {
        let group = arguments::group("group", group)?;
        values::device_nodes(py, group, self.call(py, |root, _| root.device_nodes(group))?)
    }

    /// Reads whether the hardware of a PCI function responds, and the count of its fatal PCIe errors.
    ///
    /// Wakes no function from a low-power state. Raises MissingError if there is no such function.
    fn hardware<'py>(&self, py: Python<'py>, device: &Bound<'_, PyAny>) -> PyResult<Value<'py>> {
        let function = arguments::pci_address("device", device)?;
        values::hardware(py, function, self.call(py, |root, _| root.hardware(function))?)
    }

    /// Reads all bound devices with their groups and the holders of these.
    ///
    /// Opens no device unless probe_timeout is given: a process in /proc that has a group open shows that it is held
    /// (evidence holder), and otherwise a peek decides (evidence enable). With a probe_timeout, in seconds, each group is
    /// probed after the search for holders. Reads /proc of all processes, which takes milliseconds on a busy host. Raises
    /// ProbeError if the bound devices cannot be listed.
    #[pyo3(signature = (probe_timeout=None))]
    fn snapshot<'py>(
        &self,
        py: Python<'py>,
        probe_timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Value<'py>> {
        let timeout = arguments::timeout("probe_timeout", probe_timeout)?;
        let host = self.host()?;
        let snapshot = py.detach(move || {
            host.root.snapshot(Detail::Full, timeout.map(|timeout| (&*host.prober, timeout)))
        });
        listing::snapshot(py, &self.devices, &snapshot.map_err(raised)?)
    }

    /// Returns a watch of all devices of the root.
    ///
    /// interval is the time between two peeks, 0.001 to 86400 seconds. Kernel events, changes of device nodes and
    /// exits of holders are reported earlier. The watch opens groups only with probe=True. uevents=False disables
    /// kernel uevents, holders=False disables the search for holders. The first events report the current state.
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
        let defaults = watch::Options::default();
        let probe = arguments::switch("probe", probe, false)?;
        let interval =
            interval.map_or(Ok(defaults.interval), |interval| arguments::interval("interval", interval))?;
        let host = self.host()?;
        let options = defaults
            .with_interval(interval)
            .with_probe(probe)
            .with_uevents(arguments::switch("uevents", uevents, true)?)
            .with_holders(arguments::switch("holders", holders, true)?);
        Watch::new(py, &host, options)
    }

    /// Closes the root. Its watches stay open. Closing again has no effect.
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
