//! The watch: everything over time, as an iterator and as one pollable descriptor.

use crate::host::Host;
use crate::python::listing::Holders;
use crate::python::values::{Device, Event};
use crate::python::wait::{Live, release};
use crate::python::watched::{Clock, Known, WatchedGroup};
use crate::python::{arguments, errors};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use vfio_probe::monitor::{self, Assigned, Monitor};
use vfio_probe::watch::Options;

/// What changes below a root.
#[pyclass(frozen, module = "vfio_probe")]
pub(crate) struct Watch {
    /// None once closed. Locked only to copy the pointer, never over a system call or a call to Python.
    live: Mutex<Option<Arc<Live>>>,
    clock: Clock,
}

impl Watch {
    pub(crate) fn new(
        py: Python<'_>,
        host: &Host,
        options: monitor::Options,
        sources: Options,
    ) -> PyResult<Self> {
        let (root, prober) = (Arc::clone(&host.root), Arc::clone(&host.prober));
        let live =
            py.detach(|| Live::new(vfio_probe::Watch::new(Monitor::new(root, prober, options)?, sources)?));
        Ok(Self { live: Mutex::new(Some(Arc::new(live.map_err(errors::raised)?))), clock: Clock::now() })
    }

    fn live(&self) -> PyResult<Arc<Live>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        live.ok_or_else(closed)
    }

    /// Calls the core's watch detached from the interpreter, where the locks of other threads are waited for too.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut vfio_probe::Watch) -> T + Send,
    ) -> PyResult<T> {
        let live = self.live()?;
        Ok(py.detach(move || call(&mut live.lock())))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        release(self.live.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// How a wait ended.
enum Waited {
    News(Event),
    /// The time was up.
    Nothing,
    /// Somebody closed the watch.
    Closed,
}

fn wait(py: Python<'_>, live: Arc<Live>, until: Option<Instant>) -> PyResult<Waited> {
    let waited = wait_on(py, &live, until);
    // Closed meanwhile, this is its last use, which closes descriptors.
    py.detach(move || drop(live));
    waited
}

fn wait_on(py: Python<'_>, live: &Live, until: Option<Instant>) -> PyResult<Waited> {
    while !live.is_closed() {
        if let Some(event) = py.detach(|| live.lock().next()) {
            return Ok(Waited::News(event.into()));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(Waited::Nothing);
        }
        py.detach(|| live.wait(until)).map_err(std::io::Error::from)?;
        // Where Ctrl-C raises KeyboardInterrupt.
        py.check_signals()?;
    }
    Ok(Waited::Closed)
}

fn closed() -> PyErr {
    PyValueError::new_err("the watch is closed")
}

#[pymethods]
impl Watch {
    /// The next event, or None if there is none within `timeout` seconds; 0 does not wait, None waits without end.
    #[pyo3(signature = (timeout=None))]
    fn next_event(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Event>> {
        let until = arguments::timeout("timeout", timeout)?.map(|timeout| Instant::now() + timeout);
        match wait(py, self.live()?, until)? {
            Waited::News(event) => Ok(Some(event)),
            Waited::Nothing => Ok(None),
            Waited::Closed => Err(closed()),
        }
    }

    fn __iter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().live()?;
        Ok(slf)
    }

    /// Without an end but that of the watch.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Event>> {
        let Ok(live) = self.live() else { return Ok(None) };
        match wait(py, live, None)? {
            Waited::News(event) => Ok(Some(event)),
            Waited::Nothing | Waited::Closed => Ok(None),
        }
    }

    fn __aiter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().live()?;
        slf.py().import("vfio_probe._asyncio")?.getattr("Events")?.call1((slf,))
    }

    /// A descriptor that is readable when there may be an event: then call next_event(0) until it says None. Never read it.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.live()?.descriptor().as_raw_fd())
    }

    /// Keeps the descriptor open while somebody waits for it.
    fn _waiter(&self) -> PyResult<Waiter> {
        Ok(Waiter { live: Some(self.live()?) })
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.live().is_err()
    }

    /// The bound devices, by id, and those that the kernel is unbinding (driver None); SR-IOV is not looked at.
    fn devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let devices: Vec<vfio_probe::Device> =
            self.with(py, |watch| watch.monitor().devices().iter().map(|tracked| tracked.device).collect())?;
        PyTuple::new(py, devices.iter().map(Device::from))
    }

    /// Their groups, by number.
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let groups: Vec<Known> =
            self.with(py, |watch| watch.monitor().groups().iter().map(Known::from).collect())?;
        let groups: PyResult<Vec<WatchedGroup>> =
            groups.iter().map(|group| WatchedGroup::new(py, self.clock, group)).collect();
        PyTuple::new(py, groups?)
    }

    /// One of them, or None.
    fn group(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Option<WatchedGroup>> {
        let number = arguments::group("number", number)?;
        let group = self.with(py, |watch| watch.monitor().group(number).map(Known::from))?;
        group.map(|group| WatchedGroup::new(py, self.clock, &group)).transpose()
    }

    /// The known holders of a held group, or None if nobody looked for them.
    fn holders(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Option<Holders>> {
        let number = arguments::group("number", number)?;
        let known = self.with(py, |watch| Some((watch.coverage(number)?, watch.holders(number).to_vec())))?;
        known.map(|(looked, holders)| Holders::new(py, &holders, looked)).transpose()
    }

    /// Groups that are never opened, in place of those said before: a machine may be about to open them.
    fn set_owned_groups(&self, py: Python<'_>, groups: &Bound<'_, PyAny>) -> PyResult<()> {
        let owned = Assigned { groups: arguments::groups("groups", groups)?, ..Assigned::default() };
        self.with(py, |watch| watch.monitor_mut().set_assigned(owned))
    }

    /// What could not be read when all was last read, each about one thing.
    fn broken<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let broken = self.with(py, |watch| watch.monitor().errors().to_vec())?;
        PyTuple::new(py, errors::values(py, &broken))
    }

    /// Why the latest look could not list the bound devices, if it could not; what was known before stays.
    fn failure(&self, py: Python<'_>) -> PyResult<Option<Py<pyo3::exceptions::PyBaseException>>> {
        let failure = self.with(py, |watch| watch.failure())?;
        Ok(failure.map(|error| errors::raised(error).into_value(py)))
    }

    /// Closes it and ends all waits for it. Closing twice does nothing.
    fn close(&self, py: Python<'_>) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last use of it closes descriptors, so that it has to end in there.
        py.detach(move || {
            if let Some(live) = live {
                live.close();
            }
        });
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        Self::__iter__(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> &'static str {
        if self.closed() { "<Watch closed>" } else { "<Watch>" }
    }
}

/// Somebody who waits for a watch; its descriptor stays open for as long, even if the watch is closed meanwhile.
#[pyclass(frozen, module = "vfio_probe._core")]
pub(crate) struct Waiter {
    /// None only while it is dropped.
    live: Option<Arc<Live>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        release(self.live.take());
    }
}

#[pymethods]
impl Waiter {
    /// The watch's.
    fn fileno(&self) -> PyResult<i32> {
        self.live.as_ref().map(|live| live.descriptor().as_raw_fd()).ok_or_else(closed)
    }
}
