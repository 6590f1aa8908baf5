//! The events of a watch.

use crate::python::value::{Value, value};
use crate::python::words::Word;
use pyo3::prelude::*;
use vfio_probe::Event;

pub(crate) fn event(py: Python<'_>, event: Event) -> PyResult<Value<'_>> {
    match (event.device(), event.group()) {
        (Some(device), _) => value!(py, _events.DeviceEvent {
            kind: Word::event(event),
            device: device.to_string(),
        }),
        (None, Some(group)) => value!(py, _events.GroupEvent {
            kind: Word::event(event),
            group: group.0,
        }),
        (None, None) => value!(py, _events.WatchEvent { kind: Word::event(event) }),
    }
}
