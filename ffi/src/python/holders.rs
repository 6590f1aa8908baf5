//! The holders of a group and the coverage of the scan for them, as frozen Python values.

use crate::python::values::push;
use crate::python::words::Word;
use pyo3::prelude::*;

/// A process that has a group or a device of it open.
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

/// The coverage of a scan for holders. The list may be incomplete if unreadable or unattributed is greater than 0.
#[pyclass(frozen, eq, hash, get_all, module = "vfio_probe")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ScanCoverage {
    pub(crate) processes: u32,
    unreadable: u32,
    unattributed: u32,
}

impl From<vfio_probe::ScanCoverage> for ScanCoverage {
    fn from(coverage: vfio_probe::ScanCoverage) -> Self {
        let vfio_probe::ScanCoverage { processes, unreadable, unattributed, .. } = coverage;
        Self { processes, unreadable, unattributed }
    }
}

#[pymethods]
impl ScanCoverage {
    fn __repr__(&self) -> String {
        format!(
            "<ScanCoverage {} processes, {} unreadable, {} descriptors unattributed>",
            self.processes, self.unreadable, self.unattributed
        )
    }
}
