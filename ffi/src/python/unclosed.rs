//! Warns about a handle that was dropped without close().

use pyo3::exceptions::PyResourceWarning;
use pyo3::prelude::*;
use std::ffi::CString;

/// Emits a ResourceWarning, as CPython does for a file. Call it in a drop: it leaves a pending exception as it is.
pub(crate) fn warn(handle: &str) {
    // try_attach returns None while the interpreter shuts down.
    let _ = Python::try_attach(|py| {
        let pending = PyErr::take(py);
        let text = CString::new(format!("unclosed {handle}; use it in a with statement, or call close()"));
        let category = py.get_type::<PyResourceWarning>();
        let warned = text.map(|text| PyErr::warn(py, &category, &text, 1));
        if let Ok(Err(error)) = warned {
            // A filter turned the warning into an exception, which a drop cannot raise.
            error.write_unraisable(py, None);
        }
        if let Some(pending) = pending {
            pending.restore(py);
        }
    });
}
