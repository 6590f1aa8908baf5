//! Names of device models.

use crate::python::arguments;
use crate::python::errors::{malformed, raised};
use pyo3::prelude::*;
use rustix::io::Errno;
use std::collections::HashMap;
use vfio_probe::{Error, names};

/// Looks up names of PCI device models.
///
/// Returns {(vendor, device): name}. A pair without a name is left out. Without `path` the names come from the table
/// in the module: the pci.ids of 2025-07-11. With `path` they come from that pci.ids file only. Raises MissingError,
/// DeniedError or another ProbeError if the file cannot be read, and MalformedError if it is not a regular file.
#[pyfunction]
#[pyo3(signature = (ids, path=None))]
#[pyo3(name = "names")]
pub(crate) fn names_of(
    py: Python<'_>,
    ids: &Bound<'_, PyAny>,
    path: Option<&Bound<'_, PyAny>>,
) -> PyResult<HashMap<(u16, u16), String>> {
    let ids = arguments::pci_ids("ids", ids)?;
    let path = path.map(|path| arguments::path("path", path)).transpose()?;
    let Some(path) = path else {
        let named = |&id: &(u16, u16)| Some((id, names::built_in(id.0, id.1)?.as_str().to_owned()));
        return Ok(ids.iter().filter_map(named).collect());
    };
    let mut file = py.detach(|| names::open(Some(&path))).map_err(raised)?;
    let found = py.detach(|| {
        let mut found = HashMap::new();
        names::find(&mut file, &ids, &mut |index, name| {
            found.extend(ids.get(index).map(|&id| (id, name.to_owned())));
        })?;
        Ok(found)
    });
    found.map_err(|error: std::io::Error| match Errno::from_io_error(&error) {
        Some(errno) => raised(Error::os(errno.raw_os_error(), "pci.ids").of_path(path)),
        None => malformed(py, "pci.ids", path, &error.to_string()),
    })
}
