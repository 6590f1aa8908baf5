//! Converts the words of the core into members of the enums of vfio_probe._enums.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// An enum of vfio_probe._enums with at most eight members, which are looked up once.
struct Enum {
    name: &'static str,
    members: PyOnceLock<Vec<(String, Py<PyAny>)>>,
}

impl Enum {
    const fn new(name: &'static str) -> Self {
        Self { name, members: PyOnceLock::new() }
    }

    fn load(&self, py: Python<'_>) -> PyResult<Vec<(String, Py<PyAny>)>> {
        let class = py.import("vfio_probe._enums")?.getattr(self.name)?;
        let member = |member: PyResult<Bound<'_, PyAny>>| {
            let member = member?;
            PyResult::Ok((member.getattr(intern!(py, "value"))?.extract()?, member.unbind()))
        };
        class.try_iter()?.map(member).collect()
    }
}

/// A word of an enum.
#[derive(Clone, Copy)]
pub(crate) struct Word {
    class: &'static Enum,
    word: &'static str,
}

/// Defines the constructor of a word: `word!(kind, "Kind", vfio_probe::Kind)`.
macro_rules! word {
    ($constructor:ident, $class:literal, $word:ty) => {
        pub(crate) fn $constructor(word: $word) -> Self {
            static CLASS: Enum = Enum::new($class);
            Self { class: &CLASS, word: word.as_str() }
        }
    };
}

impl Word {
    word!(kind, "Kind", vfio_probe::Kind);
    word!(sriov, "Sriov", vfio_probe::Sriov);
    word!(peek, "Peek", vfio_probe::peek::Peek);
    word!(state, "State", vfio_probe::Occupancy);
    word!(unknown_reason, "UnknownReason", vfio_probe::UnknownReason);
    word!(evidence, "Evidence", vfio_probe::Evidence);
    word!(via, "Via", vfio_probe::holders::Via);
    word!(in_pod, "InPod", vfio_probe::InPod);
    word!(pid_namespace, "PidNamespace", vfio_probe::PidNamespace);
    word!(presence, "Presence", vfio_probe::Presence);
    word!(event, "EventKind", vfio_probe::Event);
}

impl<'py> IntoPyObject<'py> for Word {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let members = self.class.members.get_or_try_init(py, || self.class.load(py))?;
        let member = members.iter().find(|(word, _)| word == self.word);
        member.map(|(_, member)| member.bind(py).clone()).ok_or_else(|| {
            PyValueError::new_err(format!("vfio_probe.{} has no member {}", self.class.name, self.word))
        })
    }
}
