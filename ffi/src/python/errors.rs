//! Converts errors of the core into the exceptions of vfio_probe._errors.

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use vfio_probe::{Error, ErrorKind};

// The classes are written in Python, so that pickling, copying and subclassing work.
pyo3::import_exception!(vfio_probe._errors, ProbeError);
pyo3::import_exception!(vfio_probe._errors, MissingError);
pyo3::import_exception!(vfio_probe._errors, DeniedError);
pyo3::import_exception!(vfio_probe._errors, MalformedError);
pyo3::import_exception!(vfio_probe._errors, TooLongError);
pyo3::import_exception!(vfio_probe._errors, HeldError);
pyo3::import_exception!(vfio_probe._errors, ProbeTimeoutError);

/// Returns the exception for an error of the core.
pub(crate) fn raised(error: Error) -> PyErr {
    let arguments = (
        error.errno,
        error.to_string(),
        error.device.map(|device| device.to_string()),
        error.group.map(|group| group.0),
    );
    match error.kind {
        ErrorKind::Missing => MissingError::new_err(arguments),
        ErrorKind::Denied => DeniedError::new_err(arguments),
        ErrorKind::Malformed => MalformedError::new_err(arguments),
        ErrorKind::TooLong => TooLongError::new_err(arguments),
        _ => ProbeError::new_err(arguments),
    }
}

/// Returns exceptions as values, for errors that concern one device or member only.
pub(crate) fn values(py: Python<'_>, errors: &[Error]) -> Vec<Py<PyBaseException>> {
    errors.iter().map(|error| raised(error.clone()).into_value(py)).collect()
}
