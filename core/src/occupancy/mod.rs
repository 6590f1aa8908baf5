//! Defines whether a group is held and what that rests on. Performs no I/O.
//!
//! [`combine`] and [`combine_with_holders`] are for a caller that checks a group once.
//! [`GroupState`] follows one group over time.

mod state;
#[cfg(test)]
mod tests;

use crate::holders::Holder;
use crate::peek::Peek;

pub use state::{GroupNode, GroupState, MAX_PROBE_INTERVAL, Observation};

/// Whether a group is held.
///
/// Exhaustive, so that a program decides about each state and none falls into a wildcard. What may
/// come is another [`UnknownReason`].
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
#[non_exhaustive]
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
#[non_exhaustive]
pub enum Evidence {
    /// An open of the group's device node.
    Open,
    /// A process that has the group or a device of it open, found in /proc.
    Holder,
    /// `enable` of the group's functions, compared with their baselines.
    Enable,
    /// The presence of the device node itself.
    Node,
    /// Nothing yet.
    None,
}

impl Occupancy {
    /// Returns whether the group is certainly held: by EBUSY, by a holder in /proc, or by a count
    /// above its baseline.
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
    /// Returns `open`, `holder`, `enable`, `node` or `none`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Holder => "holder",
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

/// Combines a peek at a group with the holders that a search of /proc found, and with the result of
/// a probe, if the group was probed **after** the search.
///
/// The evidence counts in this order:
///
/// 1. a probe that found the group held or free. A successful open proves that an older holder has
///    closed the group;
/// 2. a holder, see [`prove_held`]. It also explains an absent node, and a denied open;
/// 3. the rest, as [`combine`] does.
///
/// No holder found is no evidence of anything. A caller whose probe is older than the search passes
/// no probe, unless the search found nothing.
#[must_use]
pub fn combine_with_holders(
    peek: Peek,
    holders: &[Holder],
    probe: Option<Occupancy>,
) -> (Occupancy, Evidence) {
    match probe {
        Some(Occupancy::Free | Occupancy::Held) => combine(peek, probe),
        _ if prove_held(holders, peek) => (Occupancy::Held, Evidence::Holder),
        _ => combine(peek, probe),
    }
}

/// Returns whether the holders of one group prove that it is held.
///
/// A descriptor of the group or of a device does. The open of a device's own node is not exclusive
/// (`vfio_device_fops_cdev_open`), and the bind that follows raises `enable`: such a descriptor
/// counts only where there is no `enable` to read.
#[must_use]
pub fn prove_held(holders: &[Holder], peek: Peek) -> bool {
    holders.iter().any(|holder| holder.via.is_exclusive() || peek == Peek::Unavailable)
}
