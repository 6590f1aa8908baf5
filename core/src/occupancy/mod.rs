//! Defines whether a group is held and what that rests on. Performs no I/O.
//!
//! [`combine`] is for a caller that checks a group once. [`GroupState`] follows one group over
//! time.

mod state;
#[cfg(test)]
mod tests;

use crate::peek::Peek;

pub use state::{GroupNode, GroupState, MAX_PROBE_INTERVAL, Observation};

/// Whether a group is held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Occupancy {
    /// No process has the group open.
    Free,
    /// A process has the group, or a device of the group, open.
    Held,
    /// The group has no device node, or there is no device behind the node.
    Absent,
    /// Unknown: neither free nor held.
    Unknown(UnknownReason),
}

/// Why an occupancy is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnknownReason {
    /// The open was denied: EPERM by the device cgroup, EACCES by the mode of the device node.
    Denied,
    /// The probe had no result within its deadline.
    TimedOut,
    /// The open failed with another errno.
    Errno(i32),
    /// The group was not probed yet.
    NotProbed,
}

/// What an occupancy rests on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Evidence {
    /// An open of the group's device node.
    Open,
    /// `enable` of the group's functions, compared with their baselines.
    Enable,
    /// The presence of the device node itself.
    Node,
    /// Nothing yet.
    None,
}

impl Occupancy {
    /// Returns whether the group is certainly held: by EBUSY, or by a count above its baseline.
    /// Returns false for [`Occupancy::Unknown`].
    #[must_use]
    pub fn is_held(self) -> bool {
        self == Self::Held
    }

    /// Returns `free`, `held`, `absent` or `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Held => "held",
            Self::Absent => "absent",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl UnknownReason {
    /// Returns `denied`, `timed-out`, `errno` or `not-probed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::TimedOut => "timed-out",
            Self::Errno(_) => "errno",
            Self::NotProbed => "not-probed",
        }
    }
}

impl Evidence {
    /// Returns `open`, `enable`, `node` or `none`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Enable => "enable",
            Self::Node => "node",
            Self::None => "none",
        }
    }
}

/// Combines a peek at a group with the result of a probe, if the group was probed.
///
/// A conclusive probe (free, held or absent) decides. Otherwise the peek decides. If the peek is
/// [`Peek::Unavailable`] too, the occupancy is that of the probe, or
/// [`UnknownReason::NotProbed`] without a probe.
#[must_use]
pub fn combine(peek: Peek, probe: Option<Occupancy>) -> (Occupancy, Evidence) {
    match (probe, peek) {
        (Some(result @ (Occupancy::Free | Occupancy::Held | Occupancy::Absent)), _) => {
            (result, Evidence::Open)
        }
        (_, Peek::LooksHeld) => (Occupancy::Held, Evidence::Enable),
        (_, Peek::LooksFree) => (Occupancy::Free, Evidence::Enable),
        (Some(inconclusive @ Occupancy::Unknown(_)), Peek::Unavailable) => (inconclusive, Evidence::Open),
        (None, Peek::Unavailable) => (Occupancy::Unknown(UnknownReason::NotProbed), Evidence::None),
    }
}
