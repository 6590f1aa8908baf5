//! The Python module `vfio_probe._core`; the typed package around it is python/vfio_probe.

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _core {}
