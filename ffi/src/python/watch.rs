//! The watch as an iterator, an async iterator and a pollable descriptor.

use crate::host::Host;
use crate::python::events::event;
use crate::python::kept::{Found, KeptDevices, KeptValues};
use crate::python::value::{Value, tuple};
use crate::python::wait::{Live, release};
use crate::python::waiting::{Waited, Waiter, asynchronous, closed, next, step, wait};
use crate::python::watched::{Clock, Known, watched_group};
use crate::python::{arguments, errors, unclosed, values};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_probe::monitor::Assigned;
use vfio_probe::watch::{Options, Wait};
use vfio_probe::{GroupId, Occupancy};

/// A watch of all devices of a root: an iterator of events and a context manager.
///
/// Any number of threads may use a watch at the same time. Each event goes to one caller.
#[pyclass(frozen, module = "vfio_probe")]
pub(crate) struct Watch {
    /// None after close(). Locked only to copy the pointer, never during a system call or a call of Python.
    live: Mutex<Option<Arc<Live>>>,
    clock: Clock,
    devices: KeptDevices,
    groups: KeptValues<GroupId, Known>,
}

impl Watch {
    pub(crate) fn new(py: Python<'_>, host: &Host, options: Options) -> PyResult<Self> {
        let (root, prober) = (host.root.clone(), Arc::clone(&host.prober));
        let live = py.detach(|| Live::new(vfio_probe::Watch::with_prober(root, prober, options)?));
        let live = Mutex::new(Some(Arc::new(live.map_err(errors::raised)?)));
        Ok(Self { live, clock: Clock::now(), devices: KeptValues::new(), groups: KeptValues::new() })
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

impl Watch {
    /// Waits until `step` returns true. Returns false if the time is up first.
    fn wait_until(
        &self,
        py: Python<'_>,
        timeout: Option<&Bound<'_, PyAny>>,
        mut step: impl FnMut(&Live, &mut Wait) -> PyResult<bool>,
    ) -> PyResult<bool> {
        let timeout = arguments::timeout("timeout", timeout)?;
        match wait(py, self.live()?, timeout, |live, wait| Ok(step(live, wait)?.then_some(())))? {
            Waited::Done(()) => Ok(true),
            Waited::TimedOut => Ok(false),
            Waited::Closed => Err(closed()),
        }
    }

    fn group_value<'py>(&self, py: Python<'py>, found: Found<Known>, count: usize) -> PyResult<Value<'py>> {
        let value = |py, known: &Known| watched_group(py, self.clock, known);
        self.groups.value(py, found, count, |known| known.id, value)
    }

    fn wait_until_occupancy(
        &self,
        py: Python<'_>,
        group: GroupId,
        occupancy: Occupancy,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let is = |watch: &vfio_probe::Watch| watch.occupancy(group) == Some(occupancy);
        self.wait_until(py, timeout, |live, wait| step(py, live, wait, is))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let live = self.live.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if live.is_some() {
            unclosed::warn("watch");
        }
        release(live);
    }
}

#[pymethods]
impl Watch {
    /// Returns the next event, or None if there is none within timeout seconds. 0 does not wait; None waits without a
    /// limit. Raises ProbeError once for each pass that cannot list the bound devices; the watch goes on.
    #[pyo3(signature = (timeout=None))]
    fn next_event<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Value<'py>>> {
        let timeout = arguments::timeout("timeout", timeout)?;
        match wait(py, self.live()?, timeout, |live, wait| next(py, live, wait))? {
            Waited::Done(next) => event(py, next).map(Some),
            Waited::TimedOut => Ok(None),
            Waited::Closed => Err(closed()),
        }
    }

    fn __iter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().live()?;
        Ok(slf)
    }

    /// Waits for the next event. The iteration ends when the watch is closed.
    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Value<'py>>> {
        let Ok(live) = self.live() else { return Ok(None) };
        match wait(py, live, None, |live, wait| next(py, live, wait))? {
            Waited::Done(next) => event(py, next).map(Some),
            Waited::TimedOut | Waited::Closed => Ok(None),
        }
    }

    /// Waits until predicate(watch) is true. Returns False if there is none within timeout seconds; None waits without
    /// a limit.
    ///
    /// The predicate is called first when the watch is ready, and then after each change. Events of that time stay
    /// queued for next_event(); more than 1024 become one rescan. Raises ProbeError if a pass cannot list the bound
    /// devices; the wait can be repeated. Ctrl-C ends the wait.
    #[pyo3(signature = (predicate, timeout=None))]
    fn wait_for(
        slf: &Bound<'_, Self>,
        predicate: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let py = slf.py();
        if !predicate.is_callable() {
            return Err(PyTypeError::new_err("predicate must be callable"));
        }
        slf.get().wait_until(py, timeout, |live, wait| {
            // The watch is not locked during the call of the predicate, which uses the watch.
            Ok(step(py, live, wait, |_| true)? && predicate.call1((slf,))?.is_truthy()?)
        })
    }

    /// Waits until a group is free. Returns False if it is not within timeout seconds; None waits without a limit.
    ///
    /// A group that the watch does not know, or whose state is unknown, is not free. Otherwise as wait_for().
    #[pyo3(signature = (group, timeout=None))]
    fn wait_until_free(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        self.wait_until_occupancy(py, arguments::group("group", group)?, Occupancy::Free, timeout)
    }

    /// Waits until a group is held. Returns False if it is not within timeout seconds; None waits without a limit.
    ///
    /// Otherwise as wait_for().
    #[pyo3(signature = (group, timeout=None))]
    fn wait_until_held(
        &self,
        py: Python<'_>,
        group: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        self.wait_until_occupancy(py, arguments::group("group", group)?, Occupancy::Held, timeout)
    }

    /// True after the first complete pass: then a watch without devices means that there are none.
    #[getter]
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, |watch| watch.is_ready())
    }

    /// Waits for the next event in asyncio. As next_event().
    #[pyo3(signature = (timeout=None))]
    fn next_event_async<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        asynchronous(slf.py(), "next_event", (slf, timeout))
    }

    /// Waits in asyncio until predicate(watch) is true. As wait_for().
    #[pyo3(signature = (predicate, timeout=None))]
    fn wait_for_async<'py>(
        slf: &Bound<'py, Self>,
        predicate: &Bound<'py, PyAny>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        asynchronous(slf.py(), "wait_for", (slf, predicate, timeout))
    }

    /// Waits in asyncio until a group is free. As wait_until_free().
    #[pyo3(signature = (group, timeout=None))]
    fn wait_until_free_async<'py>(
        slf: &Bound<'py, Self>,
        group: &Bound<'py, PyAny>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        asynchronous(slf.py(), "wait_until_free", (slf, group, timeout))
    }

    /// Waits in asyncio until a group is held. As wait_until_held().
    #[pyo3(signature = (group, timeout=None))]
    fn wait_until_held_async<'py>(
        slf: &Bound<'py, Self>,
        group: &Bound<'py, PyAny>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        asynchronous(slf.py(), "wait_until_held", (slf, group, timeout))
    }

    fn __aiter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().live()?;
        slf.py().import("vfio_probe._asyncio")?.getattr("Events")?.call1((slf,))
    }

    /// Returns a descriptor that is readable when there may be an event. Then call next_event(0) until it returns
    /// None. Do not read or close the descriptor. It becomes readable for what the waits of other threads have read
    /// first, too; calls with a timeout of 0 end that, so one thread polls it.
    fn fileno(&self) -> PyResult<i32> {
        Ok(self.live()?.fd().as_raw_fd())
    }

    /// Returns an object that keeps the descriptor open during a wait.
    fn _waiter(&self, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Waiter> {
        let timeout = arguments::timeout("timeout", timeout)?;
        Ok(Waiter::new(self.live()?, timeout))
    }

    /// True if the watch is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.live().is_err()
    }

    /// Returns the bound devices, ordered by id, in the state of the latest event. A device that the kernel unbinds
    /// has the driver None. The SR-IOV fields are not set.
    fn devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let found: Vec<_> = self.with(py, |watch| {
            let devices = watch.monitor().devices().iter();
            devices.map(|tracked| self.devices.find(&tracked.device.id, tracked.device)).collect()
        })?;
        let count = found.len();
        tuple(py, found, |py, found| self.devices.device(py, found, count))
    }

    /// Returns the groups that have a bound device, ordered by number, in the state of the latest event.
    fn groups<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let found: Vec<_> = self.with(py, |watch| {
            watch.monitor().groups().iter().map(|group| self.groups.find(&group.id, group)).collect()
        })?;
        let count = found.len();
        tuple(py, found, |py, found| self.group_value(py, found, count))
    }

    /// Returns one group in the state of the latest event, or None if the watch does not know it.
    fn group<'py>(&self, py: Python<'py>, group: &Bound<'_, PyAny>) -> PyResult<Option<Value<'py>>> {
        let group = arguments::group("group", group)?;
        let (found, count) = self.with(py, |watch| {
            let monitor = watch.monitor();
            let found = monitor.group(group).map(|group| self.groups.find(&group.id, group));
            (found, monitor.groups().len())
        })?;
        found.map(|found| self.group_value(py, found, count)).transpose()
    }

    /// Returns the known holders of a group, or None if the group is not held or was not searched for holders.
    fn holders<'py>(&self, py: Python<'py>, group: &Bound<'_, PyAny>) -> PyResult<Option<Value<'py>>> {
        let group = arguments::group("group", group)?;
        let known = self.with(py, |watch| Some((watch.coverage(group)?, watch.holders(group).to_vec())))?;
        known.map(|(coverage, holders)| values::holders(py, &holders, coverage)).transpose()
    }

    /// Sets the groups that are assigned to VMs. The watch never opens them. Replaces the previous set.
    fn set_assigned_groups(&self, py: Python<'_>, groups: &Bound<'_, PyAny>) -> PyResult<()> {
        let assigned = Assigned { groups: arguments::groups("groups", groups)?, ..Assigned::default() };
        self.with(py, |watch| watch.monitor_mut().set_assigned(assigned))
    }

    /// Returns the errors of the devices that could not be read in the latest full pass.
    fn errors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let errors = self.with(py, |watch| watch.monitor().errors().to_vec())?;
        errors::values(py, &errors)
    }

    /// Returns the error of the latest pass if the bound devices could not be listed, else None. The watch keeps its
    /// state.
    fn failure<'py>(&self, py: Python<'py>) -> PyResult<Option<Value<'py>>> {
        let failure = self.with(py, |watch| watch.failure())?;
        failure.map(|error| errors::exception(py, &error)).transpose()
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
