//! Keeps values until the state that they show changes. A value is frozen, so all callers can share it.

use crate::python::value::Value;
use crate::python::values;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_probe::{Device, DeviceId};

/// The values of the devices or groups of a root or watch: one for each key, with the state that it was made from.
pub(crate) struct KeptValues<K, S> {
    /// Locked only to look at the map, never during a system call or a call of Python.
    map: Mutex<BTreeMap<K, Arc<Kept<S>>>>,
}

/// A value, and the state that it was made from.
pub(crate) struct Kept<S> {
    state: S,
    value: Py<PyAny>,
}

/// A value that is kept, or the state for a new one.
pub(crate) enum Found<S> {
    Kept(Arc<Kept<S>>),
    Changed(S),
}

impl<K: Ord, S> KeptValues<K, S> {
    pub(crate) fn new() -> Self {
        Self { map: Mutex::new(BTreeMap::new()) }
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<K, Arc<Kept<S>>>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up a key whose state is `now`. No Python value is created, so a watch may be locked.
    pub(crate) fn find<N: Into<S>>(&self, key: &K, now: N) -> Found<S>
    where
        S: PartialEq<N>,
    {
        match self.map().get(key) {
            Some(kept) if kept.state == now => Found::Kept(Arc::clone(kept)),
            _ => Found::Changed(now.into()),
        }
    }

    /// Returns the value, a new one if the state has changed. No watch is locked by the caller. `count` is the number of
    /// keys that are in use.
    pub(crate) fn value<'py>(
        &self,
        py: Python<'py>,
        found: Found<S>,
        count: usize,
        key: impl FnOnce(&S) -> K,
        value: impl FnOnce(Python<'py>, &S) -> PyResult<Value<'py>>,
    ) -> PyResult<Value<'py>> {
        let state = match found {
            Found::Kept(kept) => return Ok(kept.value.bind(py).clone()),
            Found::Changed(state) => state,
        };
        let value = value(py, &state)?;
        let (key, kept) = (key(&state), Arc::new(Kept { state, value: value.clone().unbind() }));
        let mut map = self.map();
        // The map may have keys that are not in use any more. It starts again before it has more than are in use.
        let left = if map.len() > count { std::mem::take(&mut *map) } else { BTreeMap::new() };
        let replaced = map.insert(key, kept);
        drop(map);
        // Python values end here, where the map is not locked.
        drop((left, replaced));
        Ok(value)
    }
}

/// The values of devices.
pub(crate) type KeptDevices = KeptValues<DeviceId, Device>;

impl KeptDevices {
    pub(crate) fn device<'py>(
        &self,
        py: Python<'py>,
        found: Found<Device>,
        count: usize,
    ) -> PyResult<Value<'py>> {
        self.value(py, found, count, |device| device.id, values::device)
    }

    /// Returns the value of a device that a root read. `count` is the number of devices of the call.
    pub(crate) fn read<'py>(&self, py: Python<'py>, device: &Device, count: usize) -> PyResult<Value<'py>> {
        // Calls about one device each can be about many devices.
        const MIN: usize = 1024;
        self.device(py, self.find(&device.id, *device), count.max(MIN))
    }
}
