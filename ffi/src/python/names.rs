//! Names of PCI devices from a pci.ids file.

use crate::python::arguments;
use crate::python::errors::{MalformedError, raised};
use pyo3::prelude::*;
use rustix::io::Errno;
use std::collections::HashMap;
use vfio_probe::Error;

/// Looks up names of PCI devices in a pci.ids file.
///
/// Returns {(vendor, device): name}. A pair without a name in the file is left out. Without `path` the first existing
/// file of /usr/pci.ids, /usr/share/misc/pci.ids and /usr/share/hwdata/pci.ids is read. Raises MissingError,
/// DeniedError or another ProbeError if the file cannot be read, and MalformedError if it is not a regular file.
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
            // No default file exists.
            (None, std::io::ErrorKind::NotFound) => Errno::NOENT,
            (None, _) => return MalformedError::new_err((0, format!("pci.ids: {error}"))),
        };
        let error = Error::system(errno, "pci.ids");
        raised(path.map_or(error, |path| error.of_entry(path.as_os_str().as_encoded_bytes())))
    })
}
