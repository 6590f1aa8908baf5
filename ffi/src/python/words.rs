//! Converts the words of the core into members of the enums of vfio_probe._enums.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::collections::HashMap;

/// A word and the name of its enum.
#[derive(Clone, Copy)]
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

    pub(crate) fn presence(presence: vfio_probe::Presence) -> Self {
        Self { class: "Presence", word: presence.as_str() }
    }

    pub(crate) fn event(event: vfio_probe::Event) -> Self {
        Self { class: "EventKind", word: event.as_str() }
    }
}

impl<'py> IntoPyObject<'py> for Word {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        static MEMBERS: PyOnceLock<Members> = PyOnceLock::new();
        let members = MEMBERS.get_or_try_init(py, || members(py))?;
        let member = members.get(self.class).and_then(|words| words.get(self.word));
        member.map(|member| member.bind(py).clone()).ok_or_else(|| {
            PyValueError::new_err(format!("vfio_probe.{} has no member {}", self.class, self.word))
        })
    }
}

/// The members of the enums, by class and word. A call of an enum takes several times as long as two look-ups here.
type Members = HashMap<String, HashMap<String, Py<PyAny>>>;

fn members(py: Python<'_>) -> PyResult<Members> {
    let enums = py.import("vfio_probe._enums")?.getattr("ENUMS")?;
    let mut members = Members::new();
    for class in enums.try_iter()? {
        let class = class?;
        let mut words = HashMap::new();
        for member in class.try_iter()? {
            let member = member?;
            words.insert(member.getattr("value")?.extract()?, member.unbind());
        }
        members.insert(class.getattr("__name__")?.extract()?, words);
    }
    Ok(members)
}
