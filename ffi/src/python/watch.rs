//! The watch as an iterator, an async iterator and a pollable descriptor.

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
use vfio_probe::monitor::Assigned;
use vfio_probe::watch::Options;

/// A watch of all devices of a root: an iterator of events and a context manager.
///
/// Any number of threads may use a watch at the same time. Each event goes to one caller.
#[pyclass(frozen, module = "vfio_probe")]
pub(crate) struct Watch {
    /// None after close(). Locked only to copy the pointer, never during a system call or a call of Python.
    live: Mutex<Option<Arc<Live>>>,
    clock: Clock,
}

impl Watch {
    pub(crate) fn new(py: Python<'_>, host: &Host, options: Options) -> PyResult<Self> {
        let (root, prober) = (Arc::clone(&host.root), Arc::clone(&host.prober));
        let live = py.detach(|| Live::new(vfio_probe::Watch::with_prober(root, prober, options)?));
        Ok(Self { live: Mutex::new(Some(Arc::new(live.map_err(errors::raised)?))), clock: Clock::now() })
    }

    fn live(&self) -> PyResult<Arc<Live>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        live.ok_or_else(closed)
    }

    /// Calls the core's watch detached from the interpreter, including the wait for its lock.
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

/// The result of a wait.
enum Waited {
    Event(Event),
    /// The timeout passed.
    TimedOut,
    /// The watch was closed.
    Closed,
}

fn wait(py: Python<'_>, live: Arc<Live>, until: Option<Instant>) -> PyResult<Waited> {
    let waited = wait_on(py, &live, until);
    // If the watch was closed during the wait, this drop closes descriptors.
    py.detach(move || drop(live));
    waited
}

fn wait_on(py: Python<'_>, live: &Live, until: Option<Instant>) -> PyResult<Waited> {
    while !live.is_closed() {
        if let Some(event) = py.detach(|| live.lock().next()) {
            return Ok(Waited::Event(event.map_err(errors::raised)?.into()));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(Waited::TimedOut);
        }
        py.detach(|| live.wait(until)).map_err(std::io::Error::from)?;
        // Raises KeyboardInterrupt after Ctrl-C.
        py.check_signals()?;
    }
    Ok(Waited::Closed)
}

fn closed() -> PyErr {
    PyValueError::new_err("the watch is closed")
}

#[pymethods]
impl Watch {
    /// Returns the next event, or None if there is none within timeout seconds. 0 does not wait; None waits without a
    /// limit.
    #[pyo3(signature = (timeout=None))]
    fn next_event(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Event>> {
        let until = arguments::timeout("timeout", timeout)?.map(|timeout| Instant::now() + timeout);
        match wait(py, self.live()?, until)? {
            Waited::Event(event) => Ok(Some(event)),
            Waited::TimedOut => Ok(None),
            Waited::Closed => Err(closed()),
        }
    }

    fn __iter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().live()?;
        Ok(slf)
    }

    /// Waits for the next event. The iteration ends when the watch is closed.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Event>> {
        let Ok(live) = self.live() else { return Ok(None) };
        match wait(py, live, None)? {
            Waited::Event(event) => Ok(Some(event)),
            Waited::TimedOut | Waited::Closed => Ok(None),
        }
    }

    fn __aiter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().live()?;
        slf.py().import("vfio_probe._asyncio")?.getattr("Events")?.call1((slf,))
    }

    /// Returns a descriptor that is readable when there may be an event. Then call next_event(0) until it returns
    /// None. Do not read or close the descriptor.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.live()?.descriptor().as_raw_fd())
    }

    /// Returns an object that keeps the descriptor open during a wait.
    fn _waiter(&self) -> PyResult<Waiter> {
        Ok(Waiter { live: Some(self.live()?) })
    }

    /// True if the watch is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.live().is_err()
    }

    /// Returns the bound devices, ordered by id, in the state of the latest event. A device that the kernel unbinds
    /// has the driver None. The SR-IOV fields are not set.
    fn devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let devices: Vec<vfio_probe::Device> =
            self.with(py, |watch| watch.monitor().devices().iter().map(|tracked| tracked.device).collect())?;
        PyTuple::new(py, devices.iter().map(Device::from))
    }

    /// Returns the groups that have a bound device, ordered by number, in the state of the latest event.
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let groups: Vec<Known> =
            self.with(py, |watch| watch.monitor().groups().iter().map(Known::from).collect())?;
        let groups: PyResult<Vec<WatchedGroup>> =
            groups.iter().map(|group| WatchedGroup::new(py, self.clock, group)).collect();
        PyTuple::new(py, groups?)
    }

    /// Returns one group in the state of the latest event, or None if the watch does not know it.
    fn group(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Option<WatchedGroup>> {
        let number = arguments::group("number", number)?;
        let group = self.with(py, |watch| watch.monitor().group(number).map(Known::from))?;
        group.map(|group| WatchedGroup::new(py, self.clock, &group)).transpose()
    }

    /// Returns the known holders of a group, or None if the group is not held or was not searched for holders.
    fn holders(&self, py: Python<'_>, number: &Bound<'_, PyAny>) -> PyResult<Option<Holders>> {
        let number = arguments::group("number", number)?;
        let known = self.with(py, |watch| Some((watch.coverage(number)?, watch.holders(number).to_vec())))?;
        known.map(|(coverage, holders)| Holders::new(py, &holders, coverage)).transpose()
    }

    /// Sets the groups that are assigned to VMs. The watch never opens them. Replaces the previous set.
    fn set_assigned_groups(&self, py: Python<'_>, groups: &Bound<'_, PyAny>) -> PyResult<()> {
        let assigned = Assigned { groups: arguments::groups("groups", groups)?, ..Assigned::default() };
        self.with(py, |watch| watch.monitor_mut().set_assigned(assigned))
    }

    /// Returns the errors of the devices that could not be read in the latest full pass.
    fn errors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let errors = self.with(py, |watch| watch.monitor().errors().to_vec())?;
        PyTuple::new(py, errors::values(py, &errors))
    }

    /// Returns the error of the latest pass if the bound devices could not be listed, else None. The watch keeps its
    /// state.
    fn failure(&self, py: Python<'_>) -> PyResult<Option<Py<pyo3::exceptions::PyBaseException>>> {
        let failure = self.with(py, |watch| watch.failure())?;
        Ok(failure.map(|error| errors::raised(error).into_value(py)))
    }

    /// Closes the watch and ends all waits for it. Closing again has no effect.
    fn close(&self, py: Python<'_>) {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last user closes descriptors, so it is dropped inside the closure.
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

/// A wait for a watch. It keeps the descriptor open, even if the watch is closed during the wait.
#[pyclass(frozen, module = "vfio_probe._core")]
pub(crate) struct Waiter {
    /// None only during the drop.
    live: Option<Arc<Live>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        release(self.live.take());
    }
}

#[pymethods]
impl Waiter {
    /// Returns the descriptor of the watch.
    fn fileno(&self) -> PyResult<i32> {
        self.live.as_ref().map(|live| live.descriptor().as_raw_fd()).ok_or_else(closed)
    }
}
