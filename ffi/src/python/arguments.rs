//! Checks arguments from Python. Every exception names the argument.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBoolMethods, PyBytes, PyInt, PyString};
use std::path::PathBuf;
use std::time::Duration;
use vfio_probe::{DeviceId, GroupId, PciAddress};

/// Returns an int from 0 to `max`. A bool is refused.
fn number(name: &str, value: &Bound<'_, PyAny>, max: u32) -> PyResult<u32> {
    if value.is_instance_of::<PyBool>() || !value.is_instance_of::<PyInt>() {
        return Err(PyTypeError::new_err(format!("{name} must be int, not {}", type_name(value))));
    }
    // The error does not show the number: it may have thousands of digits.
    value
        .extract::<u32>()
        .ok()
        .filter(|number| *number <= max)
        .ok_or_else(|| PyOverflowError::new_err(format!("{name} must be between 0 and {max}")))
}

/// Returns the number of an IOMMU group. The greatest number is refused: in C and Go it stands for no group.
pub(crate) fn group(name: &str, value: &Bound<'_, PyAny>) -> PyResult<GroupId> {
    const NO_GROUP: u32 = u32::MAX;
    match number(name, value, u32::MAX)? {
        NO_GROUP => Err(PyValueError::new_err(format!(
            "{name} must not be {NO_GROUP}, which stands for no group; a device without an IOMMU has no group"
        ))),
        group => Ok(GroupId(group)),
    }
}

/// Returns numbers of IOMMU groups.
pub(crate) fn groups(name: &str, values: &Bound<'_, PyAny>) -> PyResult<Vec<GroupId>> {
    let item = format!("an item of {name}");
    items(name, values, |value| group(&item, value))
}

/// Returns pairs of PCI vendor id and device id.
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
    // A str or bytes is iterable, but is not a list of numbers.
    let text = values.is_instance_of::<PyString>() || values.is_instance_of::<PyBytes>();
    let not_iterable =
        || PyTypeError::new_err(format!("{name} must be an iterable, not {}", type_name(values)));
    match values.try_iter() {
        Ok(values) if !text => values.map(|value| item(&value?)).collect(),
        Ok(_) => Err(not_iterable()),
        Err(error) => Err(replace_type_error(values.py(), error, not_iterable)),
    }
}

/// Returns a device id: a PCI address or an mdev UUID.
pub(crate) fn device_id(name: &str, value: &Bound<'_, PyAny>) -> PyResult<DeviceId> {
    let Ok(text) = value.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!("{name} must be str, not {}", type_name(value))));
    };
    text.to_cow().ok().and_then(|text| DeviceId::parse(text.as_bytes())).ok_or_else(|| {
        let shown = text.repr().map_or_else(|_| "this text".to_owned(), |repr| truncated(&repr.to_string()));
        PyValueError::new_err(format!(
            "{name} must be a PCI address such as 0000:3b:00.0 or an mdev UUID, not {shown}"
        ))
    })
}

/// Returns a PCI address.
pub(crate) fn pci_address(name: &str, value: &Bound<'_, PyAny>) -> PyResult<PciAddress> {
    match device_id(name, value)? {
        DeviceId::Pci(address) => Ok(address),
        id => {
            Err(PyValueError::new_err(format!("{name} must be a PCI address such as 0000:3b:00.0, not {id}")))
        }
    }
}

/// Returns a path from a str or os.PathLike.
pub(crate) fn path(name: &str, value: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let path: PathBuf = value.extract().map_err(|error| {
        replace_type_error(value.py(), error, || {
            PyTypeError::new_err(format!("{name} must be str or os.PathLike, not {}", type_name(value)))
        })
    })?;
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(PyValueError::new_err(format!("{name} must not contain a null character")));
    }
    Ok(path)
}

/// Returns a timeout in seconds. None and infinity mean no timeout.
pub(crate) fn timeout(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    // About 32 years. A larger value could overflow when it is added to a clock.
    const NO_TIMEOUT: f64 = 1e9;
    let Some(value) = value else { return Ok(None) };
    let seconds = seconds(name, value)?;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "{name} must be None or a number of seconds that is not negative"
        )));
    }
    Ok((seconds < NO_TIMEOUT).then(|| Duration::from_secs_f64(seconds)))
}

/// Returns the interval between two peeks, in seconds.
pub(crate) fn interval(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds = seconds(name, value)?;
    if (0.001..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(PyValueError::new_err(format!("{name} must be between 0.001 and 86400 seconds")))
    }
}

/// Returns a bool, or the default if there is no argument.
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

/// Replaces a TypeError by one with a better text. Other exceptions of the caller's code (KeyboardInterrupt,
/// MemoryError) stay as they are.
fn replace_type_error(py: Python<'_>, error: PyErr, better: impl FnOnce() -> PyErr) -> PyErr {
    if error.is_instance_of::<PyTypeError>(py) { better() } else { error }
}

/// Returns at most 80 characters of a text.
fn truncated(text: &str) -> String {
    const MAX: usize = 80;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "this type".to_owned(), |name| name.to_string())
}
