//! Converts the words of the core into members of the enums of vfio_probe._enums.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;
use std::fmt;

/// A word and the name of its enum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Word {
    class: &'static str,
    word: &'static str,
}

impl Word {
    pub(crate) fn kind(kind: vfio_probe::Kind) -> Self {
        Self { class: "Kind", word: kind.as_str() }
    }

    pub(crate) fn sriov(sriov: vfio_probe::Sriov) -> Self {
        Self { class: "Sriov", word: sriov.as_str() }
    }

    pub(crate) fn peek(peek: vfio_probe::peek::Peek) -> Self {
        Self { class: "Peek", word: peek.as_str() }
    }

    pub(crate) fn state(occupancy: vfio_probe::Occupancy) -> Self {
        Self { class: "State", word: occupancy.as_str() }
    }

    pub(crate) fn unknown_reason(reason: vfio_probe::UnknownReason) -> Self {
        Self { class: "UnknownReason", word: reason.as_str() }
    }

    pub(crate) fn evidence(evidence: vfio_probe::Evidence) -> Self {
        Self { class: "Evidence", word: evidence.as_str() }
    }

    pub(crate) fn via(via: vfio_probe::holders::Via) -> Self {
        Self { class: "Via", word: via.as_str() }
    }

    pub(crate) fn in_pod(in_pod: vfio_probe::InPod) -> Self {
        Self { class: "InPod", word: in_pod.as_str() }
    }

    pub(crate) fn pid_namespace(namespace: vfio_probe::PidNamespace) -> Self {
        Self { class: "PidNamespace", word: namespace.as_str() }
    }

    pub(crate) fn event(event: vfio_probe::Event) -> Self {
        Self { class: "EventKind", word: event.as_str() }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word)
    }
}

impl<'py> IntoPyObject<'py> for Word {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        static ENUMS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
        let enums = ENUMS.get_or_try_init(py, || py.import("vfio_probe._enums").map(Bound::unbind))?;
        enums.bind(py).getattr(self.class)?.call1((self.word,))
    }
}
