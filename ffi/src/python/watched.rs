//! The state of a group in a watch, as a frozen Python value.

use crate::python::group::{Member, offender};
use crate::python::listing::offenders;
use crate::python::occupancy::Occupancy;
use crate::python::words::Word;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rustix::time::{ClockId, clock_gettime};
use std::time::Instant;
use vfio_probe::monitor;

/// Converts instants to the scale of Python's `time.monotonic()`, which reads the same clock.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    instant: Instant,
    seconds: f64,
}

impl Clock {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        #[expect(clippy::cast_precision_loss, reason = "exact for 285 million years")]
        let seconds = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
        Self { instant: Instant::now(), seconds }
    }

    fn seconds(self, instant: Instant) -> f64 {
        let after = instant.saturating_duration_since(self.instant).as_secs_f64();
        let before = self.instant.saturating_duration_since(instant).as_secs_f64();
        self.seconds + after - before
    }
}

/// The state of an IOMMU group as a watch knows it.
#[pyclass(frozen, get_all, module = "vfio_probe")]
pub(crate) struct WatchedGroup {
    number: u32,
    members: Py<PyTuple>,
    occupancy: Occupancy,
    evidence: Word,
    since: f64,
    peek: Option<Word>,
    viable: bool,
    offender: Option<String>,
    offender_driver: Option<String>,
    offenders: Py<PyTuple>,
}

/// A copy of the state of a group, so that the watch is not locked while Python values are created.
pub(crate) struct Known {
    id: vfio_probe::GroupId,
    members: Vec<vfio_probe::Member>,
    viability: vfio_probe::Viability,
    state: vfio_probe::occupancy::GroupState,
    peek: Option<vfio_probe::peek::Peek>,
}

impl From<&monitor::Group> for Known {
    fn from(group: &monitor::Group) -> Self {
        Self {
            id: group.id,
            members: group.members.clone(),
            viability: group.viability,
            state: group.state,
            peek: group.peek,
        }
    }
}

impl WatchedGroup {
    pub(crate) fn new(py: Python<'_>, clock: Clock, group: &Known) -> PyResult<Self> {
        let (offender, offender_driver) = offender(group.viability);
        Ok(Self {
            number: group.id.0,
            members: PyTuple::new(py, group.members.iter().map(Member::from))?.unbind(),
            occupancy: Occupancy::new(group.id, group.state.occupancy),
            evidence: Word::evidence(group.state.evidence),
            since: clock.seconds(group.state.since),
            peek: group.peek.map(Word::peek),
            viable: group.viability.is_viable(),
            offender,
            offender_driver,
            offenders: offenders(py, &group.members)?,
        })
    }
}

#[pymethods]
impl WatchedGroup {
    fn __repr__(&self) -> String {
        let (state, evidence) = (self.occupancy.word(), self.evidence);
        format!("<WatchedGroup {} {state} evidence {evidence}>", self.number)
    }
}
