//! Names of PCI devices, from a pci.ids file.

use crate::python::arguments;
use crate::python::errors::{MalformedError, raised};
use pyo3::prelude::*;
use rustix::io::Errno;
use std::collections::HashMap;
use vfio_probe::Error;

/// Names of PCI devices by (vendor, device); those that the file does not name are left out.
#[pyfunction]
#[pyo3(signature = (ids, path=None))]
pub(crate) fn names(
    py: Python<'_>,
    ids: &Bound<'_, PyAny>,
    path: Option<&Bound<'_, PyAny>>,
) -> PyResult<HashMap<(u16, u16), String>> {
    let ids = arguments::pci_ids("ids", ids)?;
    let path = path.map(|path| arguments::path("path", path)).transpose()?;
    let found = py.detach(|| {
        let mut found = HashMap::new();
        let mut file = vfio_probe::names::open(path.as_deref())?;
        vfio_probe::names::find(&mut file, &ids, &mut |index, name| {
            found.extend(ids.get(index).map(|&id| (id, name.to_owned())));
        })?;
        Ok(found)
    });
    found.map_err(|error: std::io::Error| {
        let errno = match (Errno::from_io_error(&error), error.kind()) {
            (Some(errno), _) => errno,
            // None of the usual places has one.
            (None, std::io::ErrorKind::NotFound) => Errno::NOENT,
            (None, _) => return MalformedError::new_err((0, format!("pci.ids: {error}"))),
        };
        let error = Error::system(errno, "pci.ids");
        raised(path.map_or(error, |path| error.of_entry(path.as_os_str().as_encoded_bytes())))
    })
}
