//! The waits for a watch: steps, timeouts, Ctrl-C, and the object by which asyncio waits.

use crate::python::errors;
use crate::python::events::event;
use crate::python::value::Value;
use crate::python::wait::{Live, release};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustix::io::Errno;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vfio_probe::Event;
use vfio_probe::watch::{Deadline, Wait};

/// Calls a coroutine function of vfio_probe._asyncio.
pub(crate) fn asynchronous<'py>(
    py: Python<'py>,
    function: &str,
    arguments: impl pyo3::call::PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    py.import("vfio_probe._asyncio")?.getattr(function)?.call1(arguments)
}

/// The result of a wait.
pub(crate) enum Waited<T> {
    Done(T),
    /// The timeout passed.
    TimedOut,
    /// The watch was closed.
    Closed,
}

/// Waits until `step` returns something. It is called attached to the interpreter. None waits without a limit.
pub(crate) fn wait<T>(
    py: Python<'_>,
    live: Arc<Live>,
    timeout: Option<Duration>,
    step: impl FnMut(&Live, &mut Wait) -> PyResult<Option<T>>,
) -> PyResult<Waited<T>> {
    let waited = wait_on(py, &live, timeout, step);
    // If the watch was closed during the wait, this drop closes descriptors.
    py.detach(move || drop(live));
    waited
}

fn wait_on<T>(
    py: Python<'_>,
    live: &Live,
    timeout: Option<Duration>,
    mut step: impl FnMut(&Live, &mut Wait) -> PyResult<Option<T>>,
) -> PyResult<Waited<T>> {
    let (mut waiting, deadline) = (Wait::within(timeout), Deadline::after(timeout));
    while !live.is_closed() {
        if let Some(done) = step(live, &mut waiting)? {
            return Ok(Waited::Done(done));
        }
        if !py.detach(|| live.wait(&waiting, deadline)).map_err(std::io::Error::from)? {
            return Ok(Waited::TimedOut);
        }
        // Raises KeyboardInterrupt after Ctrl-C.
        py.check_signals()?;
    }
    Ok(Waited::Closed)
}

pub(crate) fn next(py: Python<'_>, live: &Live, wait: &mut Wait) -> PyResult<Option<Event>> {
    py.detach(|| wait.next(&mut live.lock())).transpose().map_err(errors::raised)
}

/// Makes a step of a wait. Returns whether the predicate is true.
pub(crate) fn step(
    py: Python<'_>,
    live: &Live,
    wait: &mut Wait,
    predicate: impl FnOnce(&vfio_probe::Watch) -> bool + Send,
) -> PyResult<bool> {
    py.detach(|| wait.step(&mut live.lock(), predicate)).map_err(errors::raised)
}

pub(crate) fn closed() -> PyErr {
    PyValueError::new_err("the watch is closed")
}

/// A wait for a watch. It keeps the descriptor open, even if the watch is closed during the wait.
#[pyclass(frozen, module = "vfio_probe._core")]
pub(crate) struct Waiter {
    /// None only during the drop.
    live: Option<Arc<Live>>,
    wait: Mutex<Wait>,
    /// None without a timeout.
    end: Option<Instant>,
}

impl Waiter {
    pub(crate) fn new(live: Arc<Live>, timeout: Option<Duration>) -> Self {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Self { live: Some(live), wait: Mutex::new(Wait::within(timeout)), end }
    }

    /// The mutex is not locked during the call: another thread may need the interpreter to unlock it.
    fn with<T>(&self, call: impl FnOnce(&Live, &mut Wait) -> PyResult<T>) -> PyResult<T> {
        let live = self.live.as_ref().filter(|live| !live.is_closed()).ok_or_else(closed)?;
        let mut wait = std::mem::take(&mut *self.wait.lock().unwrap_or_else(PoisonError::into_inner));
        let result = call(live, &mut wait);
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner) = wait;
        result
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        release(self.live.take());
    }
}

#[pymethods]
impl Waiter {
    /// Returns the seconds until the end of the timeout, 0 after it. None without a timeout.
    fn left(&self) -> Option<f64> {
        self.end.map(|end| end.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    /// Returns the descriptor to wait for after a step. No other waiter has the same one. Raises OSError if the process
    /// had no descriptor left.
    fn descriptor(&self) -> PyResult<i32> {
        let wait = self.wait.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = wait.fd().ok_or_else(|| std::io::Error::from(Errno::MFILE))?;
        Ok(fd.as_raw_fd())
    }

    /// Takes in what has changed. Returns whether a predicate is due. Does not wait.
    fn step(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(|live, wait| step(py, live, wait, |_| true))
    }

    /// Returns the next event, or None for now. Does not wait.
    fn next_event<'py>(&self, py: Python<'py>) -> PyResult<Option<Value<'py>>> {
        let next = self.with(|live, wait| next(py, live, wait))?;
        next.map(|next| event(py, next)).transpose()
    }
}
