//! The core's errors as the exceptions of vfio_probe._errors.

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use vfio_probe::{Error, ErrorKind};

// Written in Python, so that pickling, copying and subclassing are ordinary.
pyo3::import_exception!(vfio_probe._errors, ProbeError);
pyo3::import_exception!(vfio_probe._errors, MissingError);
pyo3::import_exception!(vfio_probe._errors, DeniedError);
pyo3::import_exception!(vfio_probe._errors, MalformedError);
pyo3::import_exception!(vfio_probe._errors, TooLongError);
pyo3::import_exception!(vfio_probe._errors, HeldError);
pyo3::import_exception!(vfio_probe._errors, LateError);

/// An error of the core, to be raised.
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

/// Errors that cost one thing only, as values.
pub(crate) fn values(py: Python<'_>, errors: &[Error]) -> Vec<Py<PyBaseException>> {
    errors.iter().map(|&error| raised(error).into_value(py)).collect()
}
