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
    in_pod: Word,
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
            in_pod: Word::in_pod(holder.container.in_pod),
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

/// The coverage of a scan for holders. The list may be incomplete unless complete is True.
#[pyclass(frozen, eq, hash, get_all, module = "vfio_probe")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ScanCoverage {
    pub(crate) processes: u32,
    unreadable: u32,
    unattributed: u32,
    unsearched: u32,
    pid_namespace: Word,
    complete: bool,
}

impl From<vfio_probe::ScanCoverage> for ScanCoverage {
    fn from(coverage: vfio_probe::ScanCoverage) -> Self {
        let vfio_probe::ScanCoverage { processes, unreadable, unattributed, unsearched, pid_namespace } =
            coverage;
        let (pid_namespace, complete) = (Word::pid_namespace(pid_namespace), coverage.is_complete());
        Self { processes, unreadable, unattributed, unsearched, pid_namespace, complete }
    }
}

#[pymethods]
impl ScanCoverage {
    fn __repr__(&self) -> String {
        format!(
            "<ScanCoverage {} processes, {} unreadable, {} unsearched, {} descriptors unattributed, pid namespace {}>",
            self.processes, self.unreadable, self.unsearched, self.unattributed, self.pid_namespace
        )
    }
}
