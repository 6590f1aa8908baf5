//! The state of a group in a watch.

use crate::python::value::{Value, tuple, value};
use crate::python::values::{member, occupancy, offender};
use crate::python::words::Word;
use pyo3::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use std::time::Instant;
use vfio_probe::{GroupId, monitor};

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

/// A copy of the state of a group, so that the watch is not locked while Python values are created.
pub(crate) struct Known {
    pub(crate) id: GroupId,
    members: Vec<vfio_probe::Member>,
    viability: vfio_probe::Viability,
    state: vfio_probe::occupancy::GroupState,
    peek: Option<vfio_probe::peek::Peek>,
}

impl PartialEq<&monitor::Group> for Known {
    fn eq(&self, group: &&monitor::Group) -> bool {
        self.id == group.id
            && self.state == group.state
            && self.peek == group.peek
            && self.viability == group.viability
            && self.members == group.members
    }
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

/// Returns the value. The watch is not locked any more.
pub(crate) fn watched_group<'py>(py: Python<'py>, clock: Clock, group: &Known) -> PyResult<Value<'py>> {
    let (offender, offender_driver) = offender(&group.viability);
    value!(py, _values.WatchedGroup {
        group: group.id.0,
        occupancy: occupancy(py, group.id, group.state.occupancy)?,
        evidence: Word::evidence(group.state.evidence),
        since: clock.seconds(group.state.since),
        peek: group.peek.map(Word::peek),
        viable: group.viability.is_viable(),
        offender: offender,
        offender_driver: offender_driver,
        members: tuple(py, &group.members, member)?,
    })
}
