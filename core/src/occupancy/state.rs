//! Follows the occupancy of one group: what an observation changes, and when a probe is worth its
//! price.
//!
//! The probe of a *free* group can make the open of a VM fail. The probe of a held group cannot. So
//! a group is probed once at discovery, and later only if a peek cannot decide.

use super::{Evidence, Occupancy, UnknownReason, combine};
use crate::peek::Peek;
use std::time::{Duration, Instant};

/// Longest interval between two probes of a group that stays held.
pub const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Whether the device node of a group exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupNode {
    /// The node exists.
    Present,
    /// /dev/vfio is visible and does not contain the node.
    Missing,
    /// /dev/vfio itself is not visible, as in a container without it. The node may or may not
    /// exist.
    Hidden,
    /// The kernel has no device nodes for groups (CONFIG_VFIO_GROUP=n), and the nodes of the
    /// group's devices exist. The open of a device's node is not exclusive
    /// (`vfio_device_fops_cdev_open`), so a probe proves nothing and the peek decides.
    DevicesOnly,
}

/// What a pass saw of a group, without a probe.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Time of the observation.
    pub now: Instant,
    /// The latest peek. None if there was no peek yet, see [`GroupState::observation_can_wait`].
    pub peek: Option<Peek>,
    /// Whether the device node exists.
    pub node: GroupNode,
    /// Whether a device of the group is assigned to a pod. The pod's VM may be about to open the
    /// group, so it is never probed.
    pub assigned: bool,
}

/// The state of one group over time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupState {
    /// Whether the group is held.
    pub occupancy: Occupancy,
    /// What the occupancy rests on.
    pub evidence: Evidence,
    /// Start of the present occupancy.
    pub since: Instant,
    /// A probe got EBUSY, and no probe has succeeded since. Only a probe ends this: `enable` falls
    /// before the group can be opened, and a holder without a device never raises it.
    busy_proven: bool,
    /// A process was seen with the group open, and nothing else proves that the group is held. What
    /// was known before.
    holder: Option<(Occupancy, Evidence)>,
    /// When a probe last opened the group.
    opened: Option<Instant>,
    first_probe: FirstProbe,
    /// The latest peek found a count above its baseline.
    counted: bool,
    last_result: Option<Occupancy>,
    next_probe: Instant,
    pause: Duration,
    interval: Duration,
}

/// Progress of the probe that a group gets at discovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FirstProbe {
    /// The probe is due, whatever the peek finds: the group, and perhaps its holder, existed before
    /// the monitor started.
    Due,
    /// The probe is due only if a count is above 0: the group appeared while the monitor ran.
    IfCounted,
    /// The probe succeeded before the first peek. A count above 0 at that first peek may be left
    /// over.
    BeforePeek,
    /// The probe is done, or not needed.
    Done,
}

impl GroupState {
    /// Creates the state of a newly discovered group.
    ///
    /// `at_start` means that the group existed before the monitor started. `interval` is the
    /// shortest time between two probes.
    #[must_use]
    pub fn new(now: Instant, at_start: bool, interval: Duration) -> Self {
        Self {
            occupancy: Occupancy::Unknown(UnknownReason::NotProbed),
            evidence: Evidence::None,
            since: now,
            busy_proven: false,
            holder: None,
            opened: None,
            first_probe: if at_start { FirstProbe::Due } else { FirstProbe::IfCounted },
            counted: false,
            last_result: None,
            next_probe: now,
            pause: interval,
            interval,
        }
    }

    /// Records an observation. Returns true if the group should be probed now.
    #[must_use]
    pub fn observe(&mut self, seen: &Observation) -> bool {
        if seen.node == GroupNode::Missing {
            // A node that returns later is a new node. Its holder can only have opened it after
            // this observation.
            self.set(Occupancy::Absent, Evidence::Node, seen.now);
            self.busy_proven = false;
            self.holder = None;
            self.first_probe = FirstProbe::IfCounted;
            return false;
        }
        let Some(peek) = seen.peek else {
            return self.first_probe == FirstProbe::Due && seen.now >= self.next_probe;
        };
        let counted = peek == Peek::LooksHeld;
        if std::mem::replace(&mut self.counted, counted) && !counted {
            // The holder has just closed the device, and closes the group next.
            self.probe_now(seen.now);
        }
        if seen.assigned && self.first_probe == FirstProbe::Due {
            // After the pod has ended, only a count that stays is worth a probe. It is left over,
            // or it belongs to a holder, whom a probe cannot disturb.
            self.first_probe = FirstProbe::IfCounted;
        }
        let can_probe = !seen.assigned && seen.node == GroupNode::Present;
        let suspect = self.first_probe == FirstProbe::BeforePeek && counted && can_probe;
        if !self.busy_proven && self.peek_decides(peek, suspect) {
            self.holder = None;
            let (occupancy, evidence) = combine(peek, None);
            self.set(occupancy, evidence, seen.now);
        }
        let undecided = matches!(self.first_probe, FirstProbe::IfCounted | FirstProbe::BeforePeek);
        if undecided
            && peek == Peek::LooksFree
            && matches!(seen.node, GroupNode::Present | GroupNode::DevicesOnly)
        {
            // The group was free at discovery, so a later rise of `enable` needs no probe, assigned
            // or not.
            self.first_probe = FirstProbe::Done;
        }
        if !can_probe {
            return false;
        }
        let wanted = match self.first_probe {
            FirstProbe::Due => true,
            FirstProbe::IfCounted | FirstProbe::BeforePeek if counted => true,
            _ if peek == Peek::Unavailable => true,
            FirstProbe::IfCounted | FirstProbe::BeforePeek => false,
            FirstProbe::Done => self.busy_proven && !counted,
        };
        // A suspect count is probed at once, without the pause after the first probe.
        wanted && (seen.now >= self.next_probe || suspect)
    }

    /// Returns whether the peek changes the occupancy of a group that EBUSY does not prove held.
    fn peek_decides(&self, peek: Peek, suspect: bool) -> bool {
        match peek {
            Peek::LooksHeld => !suspect,
            // A holder without a device does not raise the count.
            _ if self.holder.is_some() => false,
            // If a probe found the group free and the peek agrees, the probe is the better
            // evidence.
            Peek::LooksFree => self.occupancy != Occupancy::Free,
            // The node has returned, so the group is no longer absent.
            Peek::Unavailable => self.occupancy == Occupancy::Absent,
        }
    }

    /// Returns whether the caller can save the system calls of a peek: a probe is due and will say
    /// more.
    #[must_use]
    pub fn observation_can_wait(&self, node: GroupNode, assigned: bool) -> bool {
        self.first_probe == FirstProbe::Due && node == GroupNode::Present && !assigned
    }

    /// Records the result of a probe. `peek` is the latest peek, or none if there was none yet.
    pub fn record_probe(&mut self, result: Occupancy, peek: Option<Peek>, now: Instant) {
        match (result, peek) {
            // An inconclusive probe changes nothing, unless there is a count to explain or nothing
            // else can decide.
            (Occupancy::Unknown(_), None | Some(Peek::LooksFree)) => {}
            (Occupancy::Unknown(_), _) if self.busy_proven => {}
            // A holder explains a denied open and an absent node too.
            (Occupancy::Unknown(_) | Occupancy::Absent, _) if self.holder.is_some() => {}
            _ => {
                self.busy_proven = result.is_held();
                self.holder = None;
                if result == Occupancy::Free {
                    self.opened = Some(now);
                }
                let (occupancy, evidence) = combine(peek.unwrap_or(Peek::Unavailable), Some(result));
                self.set(occupancy, evidence, now);
            }
        }
        self.first_probe = match (result, peek) {
            (Occupancy::Unknown(UnknownReason::TimedOut), None) => FirstProbe::Due,
            (Occupancy::Unknown(UnknownReason::TimedOut), Some(_)) if self.first_probe == FirstProbe::Due => {
                FirstProbe::Due
            }
            (Occupancy::Free, None) => FirstProbe::BeforePeek,
            _ => FirstProbe::Done,
        };
        let same = self.last_result.replace(result) == Some(result);
        self.pause = if same { (self.pause * 2).min(MAX_PROBE_INTERVAL) } else { self.interval };
        // The result arrives a little after the observation that wanted it. A quarter of the
        // interval less makes the pause end before the observation at its end.
        self.next_probe = now + self.pause - self.interval / 4;
    }

    /// Records that a process was seen with the group, or a device of it, open. `seen` is when.
    ///
    /// Does nothing if the group is known to be held, or if something newer says otherwise: the
    /// present occupancy began later, or a probe has opened the group since. Call
    /// [`GroupState::forget_holder`] once the process has closed the group.
    pub fn record_holder(&mut self, seen: Instant, now: Instant) {
        let outdated = seen < self.since || self.opened.is_some_and(|opened| seen <= opened);
        if !self.occupancy.is_held() && !outdated {
            self.holder = Some((self.occupancy, self.evidence));
            self.set(Occupancy::Held, Evidence::Holder, now);
        }
    }

    /// Records that the holders that were seen have closed the group or have ended. Does nothing if
    /// the group is held for another reason. `peek` is the latest peek, or none if there was none
    /// yet.
    pub fn forget_holder(&mut self, peek: Option<Peek>, now: Instant) {
        let Some(before) = self.holder.take() else { return };
        let (occupancy, evidence) = match peek {
            None | Some(Peek::Unavailable) => before,
            Some(peek) => combine(peek, None),
        };
        self.set(occupancy, evidence, now);
    }

    /// Lets the next observation probe at once, for example after the exit of a known holder.
    pub fn probe_now(&mut self, now: Instant) {
        self.next_probe = now;
        self.pause = self.interval;
        self.last_result = None;
    }

    /// Returns whether the probe at discovery is still to come.
    #[must_use]
    pub fn first_probe_is_due(&self) -> bool {
        self.first_probe == FirstProbe::Due
    }

    fn set(&mut self, occupancy: Occupancy, evidence: Evidence, now: Instant) {
        if self.occupancy != occupancy {
            self.occupancy = occupancy;
            self.since = now;
        }
        self.evidence = evidence;
    }
}
