//! Converts errors of the core into the exceptions of vfio_probe._errors.

use pyo3::IntoPyObjectExt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};
use std::path::PathBuf;
use vfio_probe::error::{Shown, errno_text};
use vfio_probe::{Error, ErrorKind};

/// Returns the exception for an error of the core.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn raised(error: Error) -> PyErr {
    Python::attach(|py| match exception(py, &error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    })
}

/// Returns the exception for a file of the caller that cannot be used for a reason that is no errno.
pub(crate) fn malformed(py: Python<'_>, what: &str, path: PathBuf, reason: &str) -> PyErr {
    let fields = [("text", format!("{what} {}: {reason}", Shown(path.as_os_str())))];
    let raise = || {
        let class = py.import(intern!(py, "vfio_probe._errors"))?.getattr(intern!(py, "MalformedError"))?;
        class.call((0, reason, path.into_os_string()), Some(&fields.into_py_dict(py)?))
    };
    raise().map_or_else(|error: PyErr| error, PyErr::from_value)
}

/// Returns exceptions as values, for errors that concern one device or member only.
pub(crate) fn values<'py>(py: Python<'py>, errors: &[Error]) -> PyResult<Bound<'py, PyTuple>> {
    crate::python::value::tuple(py, errors, exception)
}

/// The classes are written in Python, so that pickling, copying and subclassing work.
pub(crate) fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let class = match error.kind {
        ErrorKind::Missing => intern!(py, "MissingError"),
        ErrorKind::Denied => intern!(py, "DeniedError"),
        ErrorKind::Malformed => intern!(py, "MalformedError"),
        ErrorKind::TooLong => intern!(py, "TooLongError"),
        _ => intern!(py, "ProbeError"),
    };
    let reason = match error.errno {
        0 => error.reason(),
        errno => errno_text(errno).into(),
    };
    let fields = [
        ("device", error.device.map(|device| device.to_string()).into_bound_py_any(py)?),
        ("group", error.group.map(|group| group.0).into_bound_py_any(py)?),
        ("text", error.to_string().into_bound_py_any(py)?),
    ];
    // An OsString becomes a str as os.fsdecode() returns it.
    let path = error.path().map(PathBuf::into_os_string);
    let classes = py.import(intern!(py, "vfio_probe._errors"))?;
    classes.getattr(class)?.call((error.errno, reason, path), Some(&fields.into_py_dict(py)?))
}
