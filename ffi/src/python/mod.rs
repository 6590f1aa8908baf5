//! The Python module `vfio_probe._core`. The package python/vfio_probe wraps it and adds types.

mod arguments;
mod errors;
mod events;
mod kept;
mod listing;
mod names;
mod root;
mod unclosed;
mod value;
mod values;
mod wait;
mod waiting;
mod watch;
mod watched;
mod words;

// The module does not rely on the GIL: values are frozen, handles have their own locks, and a thread waits for a lock
// that is held during a system call only while it is detached from the interpreter.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::names::names_of;
    #[pymodule_export]
    use super::root::Root;
    #[pymodule_export]
    use super::waiting::Waiter;
    #[pymodule_export]
    use super::watch::Watch;

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "naming convention of Python")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
