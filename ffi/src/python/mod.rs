//! The Python module `vfio_probe._core`; the typed package around it is python/vfio_probe.

mod arguments;
mod errors;
mod group;
mod holders;
mod listing;
mod names;
mod occupancy;
mod root;
mod values;
mod wait;
mod watch;
mod watched;
mod words;

// Nothing here rests on the GIL: values are frozen, handles have locks of their own, and a lock that is held over a
// system call is only waited for detached from the interpreter.
#[pyo3::pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::group::{Group, Member};
    #[pymodule_export]
    use super::holders::{Holder, Looked};
    #[pymodule_export]
    use super::listing::{Holders, Members, Scan};
    #[pymodule_export]
    use super::names::names;
    #[pymodule_export]
    use super::occupancy::Occupancy;
    #[pymodule_export]
    use super::root::Root;
    #[pymodule_export]
    use super::values::{Device, Event};
    #[pymodule_export]
    use super::watch::{Waiter, Watch};
    #[pymodule_export]
    use super::watched::WatchedGroup;

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
