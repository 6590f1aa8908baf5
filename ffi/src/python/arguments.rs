//! Arguments from Python, checked so that the exception names the argument.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBoolMethods, PyBytes, PyInt, PyString};
use std::path::PathBuf;
use std::time::Duration;
use vfio_probe::{DeviceId, GroupId};

/// A whole number of at most `most`; True is none.
fn number(name: &str, value: &Bound<'_, PyAny>, most: u32) -> PyResult<u32> {
    if value.is_instance_of::<PyBool>() || !value.is_instance_of::<PyInt>() {
        return Err(PyTypeError::new_err(format!("{name} must be int, not {}", type_name(value))));
    }
    // A number may have thousands of digits, more than Python itself would print.
    value
        .extract::<u32>()
        .ok()
        .filter(|number| *number <= most)
        .ok_or_else(|| PyOverflowError::new_err(format!("{name} must be between 0 and {most}")))
}

/// The number of an IOMMU group.
pub(crate) fn group(name: &str, value: &Bound<'_, PyAny>) -> PyResult<GroupId> {
    number(name, value, u32::MAX).map(GroupId)
}

/// Numbers of IOMMU groups.
pub(crate) fn groups(name: &str, values: &Bound<'_, PyAny>) -> PyResult<Vec<GroupId>> {
    let item = format!("an item of {name}");
    items(name, values, |value| group(&item, value))
}

/// Pairs of a PCI vendor id and device id.
pub(crate) fn pci_ids(name: &str, values: &Bound<'_, PyAny>) -> PyResult<Vec<(u16, u16)>> {
    let item = format!("an item of {name}");
    items(name, values, |value| {
        let (vendor, device): (Bound<'_, PyAny>, Bound<'_, PyAny>) = value.extract().map_err(|_| {
            PyTypeError::new_err(format!("{item} must be a tuple (vendor, device), not {}", type_name(value)))
        })?;
        let half = |part, value| number(&format!("the {part} of {item}"), value, u32::from(u16::MAX));
        Ok((u16::try_from(half("vendor", &vendor)?)?, u16::try_from(half("device", &device)?)?))
    })
}

fn items<T>(
    name: &str,
    values: &Bound<'_, PyAny>,
    item: impl Fn(&Bound<'_, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    // Iterable as they are, texts are never meant as a list of numbers.
    let text = values.is_instance_of::<PyString>() || values.is_instance_of::<PyBytes>();
    let wrong = || PyTypeError::new_err(format!("{name} must be an iterable, not {}", type_name(values)));
    match values.try_iter() {
        Ok(values) if !text => values.map(|value| item(&value?)).collect(),
        Ok(_) => Err(wrong()),
        Err(error) => Err(instead(values.py(), error, wrong)),
    }
}

/// A PCI address or an mdev uuid.
pub(crate) fn device_id(name: &str, value: &Bound<'_, PyAny>) -> PyResult<DeviceId> {
    let Ok(text) = value.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!("{name} must be str, not {}", type_name(value))));
    };
    text.to_cow().ok().and_then(|text| DeviceId::parse(text.as_bytes())).ok_or_else(|| {
        let shown = text.repr().map_or_else(|_| "it".to_owned(), |repr| cut(&repr.to_string()));
        PyValueError::new_err(format!(
            "{name} must be a PCI address like 0000:3b:00.0 or an mdev uuid, not {shown}"
        ))
    })
}

/// A path: str or os.PathLike.
pub(crate) fn path(name: &str, value: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let path: PathBuf = value.extract().map_err(|error| {
        instead(value.py(), error, || {
            PyTypeError::new_err(format!("{name} must be str or os.PathLike, not {}", type_name(value)))
        })
    })?;
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(PyValueError::new_err(format!("{name} has an embedded null character")));
    }
    Ok(path)
}

/// How long to wait, in seconds; none for without end, as Python's None and infinity say it.
pub(crate) fn timeout(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    // Longer than a host is up; what is added to a clock must not overflow.
    const WITHOUT_END: f64 = 1e9;
    let Some(value) = value else { return Ok(None) };
    let seconds = seconds(name, value)?;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!("{name} must be None or a number of seconds from 0 on")));
    }
    Ok((seconds < WITHOUT_END).then(|| Duration::from_secs_f64(seconds)))
}

/// The time between two looks, in seconds.
pub(crate) fn interval(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds = seconds(name, value)?;
    if (0.001..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(PyValueError::new_err(format!("{name} must be between 0.001 and 86400 seconds")))
    }
}

/// True or False; none for the default.
pub(crate) fn switch(name: &str, value: Option<&Bound<'_, PyAny>>, default: bool) -> PyResult<bool> {
    let Some(value) = value else { return Ok(default) };
    let switch = value.cast::<PyBool>().map(PyBoolMethods::is_true);
    switch.map_err(|_| PyTypeError::new_err(format!("{name} must be bool, not {}", type_name(value))))
}

fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if value.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!("{name} must be a number of seconds, not bool")));
    }
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            return PyOverflowError::new_err(format!("{name} is too large"));
        }
        PyTypeError::new_err(format!("{name} must be a number of seconds, not {}", type_name(value)))
    })
}

/// A better text for a TypeError; what else came out of a caller's own code (KeyboardInterrupt, MemoryError) passes.
fn instead(py: Python<'_>, error: PyErr, better: impl FnOnce() -> PyErr) -> PyErr {
    if error.is_instance_of::<PyTypeError>(py) { better() } else { error }
}

/// Enough of a text to know it by.
fn cut(text: &str) -> String {
    const ENOUGH: usize = 80;
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string())
}
