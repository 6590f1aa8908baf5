//! Who holds a group, and how far the look for it reached, as frozen Python values.

use crate::python::values::push;
use crate::python::words::Word;
use pyo3::prelude::*;

/// One descriptor of a process that holds a group.
#[pyclass(frozen, eq, hash, get_all, module = "vfio_probe")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Holder {
    group: u32,
    pid: u32,
    start_time: u64,
    command: String,
    via: Word,
    pod_uid: Option<String>,
    container_id: Option<String>,
}

impl From<&vfio_probe::Holder> for Holder {
    fn from(holder: &vfio_probe::Holder) -> Self {
        Self {
            group: holder.group.0,
            pid: holder.pid,
            start_time: holder.start_time,
            command: holder.command.to_string(),
            via: Word::via(holder.via),
            pod_uid: holder.container.pod_uid.map(|uid| uid.to_string()),
            container_id: holder.container.container_id.map(|id| id.to_string()),
        }
    }
}

#[pymethods]
impl Holder {
    fn __repr__(&self) -> String {
        let mut text =
            format!("<Holder of group {} pid {} ({}) via {}", self.group, self.pid, self.command, self.via);
        push(&mut text, "pod", self.pod_uid.as_ref());
        text + ">"
    }
}

/// How far a look for holders reached.
#[pyclass(frozen, eq, hash, get_all, module = "vfio_probe")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Looked {
    pub(crate) processes: u32,
    unreadable: u32,
    unattributed: u32,
}

impl From<vfio_probe::ScanCoverage> for Looked {
    fn from(looked: vfio_probe::ScanCoverage) -> Self {
        Self { processes: looked.processes, unreadable: looked.unreadable, unattributed: looked.unattributed }
    }
}

#[pymethods]
impl Looked {
    fn __repr__(&self) -> String {
        format!(
            "<Looked at {} processes, {} unreadable, {} descriptors unattributed>",
            self.processes, self.unreadable, self.unattributed
        )
    }
}
