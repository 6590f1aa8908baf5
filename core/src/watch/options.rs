//! Defines the settings of a watch.

use crate::device::Detail;
use crate::monitor;
use std::time::Duration;

/// Settings of a [`Watch`](crate::Watch).
///
/// ```
/// use std::time::Duration;
/// use vfio_probe::watch::Options;
///
/// let options = Options::default().with_interval(Duration::from_millis(200));
/// assert!(!options.probe, "a watch opens no group unless it is asked to");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Time between two passes. Also the shortest time between two probes of one group.
    pub interval: Duration,
    /// Whether groups may be probed. If not, the occupancy rests on `enable` and on known holders.
    ///
    /// A probe opens the group's device node, and a VM that starts in that moment fails. So this is
    /// false by default, as in every language.
    pub probe: bool,
    /// Longest duration of a probe. After that it counts as timed out.
    pub probe_deadline: Duration,
    /// How much of each device's record is read.
    pub detail: Detail,
    /// Listen to the uevents of the kernel. They only make news arrive sooner: a pod with
    /// `hostUsers: false` gets none.
    pub uevents: bool,
    /// Search for the holders of groups that become held, and follow their exits.
    pub holders: bool,
}

impl Options {
    /// Sets the time between two passes.
    #[must_use]
    pub fn with_interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// Sets whether groups may be probed. **A VM that opens a free group during a probe fails.**
    #[must_use]
    pub fn with_probe(self, probe: bool) -> Self {
        Self { probe, ..self }
    }

    /// Sets the longest duration of a probe.
    #[must_use]
    pub fn with_probe_deadline(self, probe_deadline: Duration) -> Self {
        Self { probe_deadline, ..self }
    }

    /// Sets how much of each device's record is read.
    #[must_use]
    pub fn with_detail(self, detail: Detail) -> Self {
        Self { detail, ..self }
    }

    /// Sets whether the watch listens to the uevents of the kernel.
    #[must_use]
    pub fn with_uevents(self, uevents: bool) -> Self {
        Self { uevents, ..self }
    }

    /// Sets whether the watch searches for holders.
    #[must_use]
    pub fn with_holders(self, holders: bool) -> Self {
        Self { holders, ..self }
    }
}

/// The default settings of a [`Monitor`](crate::Monitor), with uevents and the search for holders.
impl Default for Options {
    fn default() -> Self {
        let monitor::Options { interval, probe, probe_deadline, detail } = monitor::Options::default();
        Self { interval, probe, probe_deadline, detail, uevents: true, holders: true }
    }
}
