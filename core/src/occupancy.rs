//! Pure: what is known of a group's occupancy, what the next look changes, and when an open is worth its price.
//!
//! An open of a *free* group can make a virtual machine's own open fail, an open of a held one never. So a group is
//! opened once when it is first seen, afterwards only where a look without opening cannot tell.

use crate::peek::Peek;
use std::time::{Duration, Instant};

/// Whether a group is held.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Occupancy {
    /// Nobody has it.
    Free,
    /// Some process has the group or a device of it open.
    Held,
    /// There is no node, or no device behind it.
    Absent,
    /// It could not be told; neither free nor held.
    Unknown(UnknownReason),
}

/// Why an occupancy is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnknownReason {
    /// The open was denied (EPERM by the device cgroup, EACCES by the node's mode).
    Denied,
    /// No answer within the deadline.
    TimedOut,
    /// Any other errno.
    Errno(i32),
    /// Nobody asked yet.
    NotProbed,
}

/// What an occupancy rests on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Evidence {
    /// An open of the group's node.
    Open,
    /// `enable` of its functions, against their baselines.
    Enable,
    /// The presence of the node itself.
    Node,
    /// Nothing yet.
    None,
}

impl Occupancy {
    /// Whether it is surely held: EBUSY, or a count above its baseline. Anything doubtful is not "held".
    #[must_use]
    pub fn is_held(self) -> bool {
        self == Self::Held
    }

    /// `free`, `held`, `absent` or `unknown`.
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
    /// `denied`, `timed-out`, `errno` or `not-probed`.
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
    /// `open`, `enable`, `node` or `none`.
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

/// Whether the group's node is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupNode {
    /// It is.
    Present,
    /// /dev/vfio is visible, and it is not in it.
    Missing,
    /// /dev/vfio itself cannot be seen from here, as in a container without it: says nothing about the node.
    Hidden,
    /// The kernel has no nodes for groups (CONFIG_VFIO_GROUP=n), and those of the group's devices are there. No open of one
    /// tells anything, for it is not exclusive (`vfio_device_fops_cdev_open`): the look without opening decides.
    DevicesOnly,
}

/// One look at a group.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// When.
    pub now: Instant,
    /// What `enable` says; none if nobody looked, see [`GroupState::observation_can_wait`].
    pub peek: Option<Peek>,
    /// Whether the node is there.
    pub node: GroupNode,
    /// Whether a pod owns a device of it: then its VM may be about to open it, and we never do.
    pub assigned: bool,
}

/// Longest pause between two opens of a group that stays busy.
pub const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// What is known of one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupState {
    /// The answer.
    pub occupancy: Occupancy,
    /// What it rests on.
    pub evidence: Evidence,
    /// Since when.
    pub since: Instant,
    /// EBUSY was seen and no open has succeeded since. `enable` falls before the group can be opened, and a holder
    /// without a device never raises it: only an open ends this.
    busy_proven: bool,
    first_open: FirstOpen,
    /// The latest look saw a count above its baseline.
    counted: bool,
    last_answer: Option<Occupancy>,
    next_open: Instant,
    pause: Duration,
    interval: Duration,
}

/// Whether the open that a group gets at first sight has been had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum FirstOpen {
    /// Wanted whatever the peek says: it was there when we started, and so may be its holder.
    Due,
    /// Wanted only if a count is above 0: it appeared while we watched.
    IfCounted,
    /// Had, before anybody looked at the counts, and it succeeded: one above 0 at the first look may be left over.
    Unlooked,
    Done,
}

impl GroupState {
    /// A group first seen. `at_start`: it was there before us.
    #[must_use]
    pub fn new(now: Instant, at_start: bool, interval: Duration) -> Self {
        Self {
            occupancy: Occupancy::Unknown(UnknownReason::NotProbed),
            evidence: Evidence::None,
            since: now,
            busy_proven: false,
            first_open: if at_start { FirstOpen::Due } else { FirstOpen::IfCounted },
            counted: false,
            last_answer: None,
            next_open: now,
            pause: interval,
            interval,
        }
    }

    /// Takes in a look; `true` asks for an open.
    #[must_use]
    pub fn observe(&mut self, look: &Observation) -> bool {
        if look.node == GroupNode::Missing {
            // When it comes back it is a new node: whoever holds it then opened it after we saw it missing.
            self.set(Occupancy::Absent, Evidence::Node, look.now);
            self.busy_proven = false;
            self.first_open = FirstOpen::IfCounted;
            return false;
        }
        let Some(peek) = look.peek else {
            return self.first_open == FirstOpen::Due && look.now >= self.next_open;
        };
        let counted = peek == Peek::LooksHeld;
        if std::mem::replace(&mut self.counted, counted) && !counted {
            // The device was closed just now, so the group is about to be.
            self.probe_now(look.now);
        }
        if look.assigned && self.first_open == FirstOpen::Due {
            // When its pod has gone, only a count that stays is worth an open: left over, or held by who cannot be hurt.
            self.first_open = FirstOpen::IfCounted;
        }
        let can_ask = !look.assigned && look.node == GroupNode::Present;
        let doubtful = self.first_open == FirstOpen::Unlooked && can_ask;
        if !self.busy_proven {
            match peek {
                Peek::LooksHeld if doubtful => {}
                Peek::LooksHeld => self.set(Occupancy::Held, Evidence::Enable, look.now),
                // Free by an open and still looking free: the open is the better evidence.
                Peek::LooksFree if self.occupancy != Occupancy::Free => {
                    self.set(Occupancy::Free, Evidence::Enable, look.now);
                }
                Peek::LooksFree => {}
                Peek::Unavailable if self.occupancy == Occupancy::Absent => {
                    self.set(Occupancy::Unknown(UnknownReason::NotProbed), Evidence::None, look.now);
                }
                Peek::Unavailable => {}
            }
        }
        let unsure = matches!(self.first_open, FirstOpen::IfCounted | FirstOpen::Unlooked);
        if unsure
            && peek == Peek::LooksFree
            && matches!(look.node, GroupNode::Present | GroupNode::DevicesOnly)
        {
            // It came with nobody in it, so a later change from 0 needs no open; whoever owns it by then.
            self.first_open = FirstOpen::Done;
        }
        if !can_ask {
            return false;
        }
        let wanted = match self.first_open {
            FirstOpen::Due => true,
            FirstOpen::IfCounted | FirstOpen::Unlooked if counted => true,
            _ if peek == Peek::Unavailable => true,
            FirstOpen::IfCounted | FirstOpen::Unlooked => false,
            FirstOpen::Done => self.busy_proven && !counted,
        };
        // A doubt is not left standing for the pause after the first open.
        wanted && (look.now >= self.next_open || doubtful && counted)
    }

    /// Whether the open that is due will tell more than a look, which then is not worth its system calls.
    #[must_use]
    pub fn observation_can_wait(&self, node: GroupNode, assigned: bool) -> bool {
        self.first_open == FirstOpen::Due && node == GroupNode::Present && !assigned
    }

    /// Takes in the answer to an open; `peek` is the latest look without opening, if there was one.
    pub fn record_probe(&mut self, answer: Occupancy, peek: Option<Peek>, now: Instant) {
        match answer {
            Occupancy::Free => {
                self.busy_proven = false;
                self.set(answer, Evidence::Open, now);
            }
            Occupancy::Held => {
                self.busy_proven = true;
                self.set(answer, Evidence::Open, now);
            }
            Occupancy::Absent => {
                self.busy_proven = false;
                self.set(answer, Evidence::Open, now);
            }
            // Late or denied changes nothing; where nothing else can tell, it is said.
            Occupancy::Unknown(_) if peek == Some(Peek::Unavailable) && !self.busy_proven => {
                self.set(answer, Evidence::Open, now);
            }
            // The count that an open was to explain stays unexplained.
            Occupancy::Unknown(_) if peek == Some(Peek::LooksHeld) && !self.busy_proven => {
                self.set(Occupancy::Held, Evidence::Enable, now);
            }
            Occupancy::Unknown(_) => {}
        }
        self.first_open = match (answer, peek) {
            (Occupancy::Unknown(UnknownReason::TimedOut), None) => FirstOpen::Due,
            (Occupancy::Unknown(UnknownReason::TimedOut), Some(_)) if self.first_open == FirstOpen::Due => {
                FirstOpen::Due
            }
            (Occupancy::Free, None) => FirstOpen::Unlooked,
            _ => FirstOpen::Done,
        };
        let same = self.last_answer.replace(answer) == Some(answer);
        self.pause = if same { (self.pause * 2).min(MAX_PROBE_INTERVAL) } else { self.interval };
        // The answer comes a little after the look that asked, and the look after the pause is to find it over.
        self.next_open = now + self.pause - self.interval / 4;
    }

    /// Somebody knows better, for example that the holder has exited: the next look may open at once.
    pub fn probe_now(&mut self, now: Instant) {
        self.next_open = now;
        self.pause = self.interval;
        self.last_answer = None;
    }

    /// Whether the open that a group gets at first sight is still to come.
    #[must_use]
    pub fn first_probe_is_due(&self) -> bool {
        self.first_open == FirstOpen::Due
    }

    fn set(&mut self, occupancy: Occupancy, evidence: Evidence, now: Instant) {
        if self.occupancy != occupancy {
            self.occupancy = occupancy;
            self.since = now;
        }
        self.evidence = evidence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    struct Story {
        state: GroupState,
        now: Instant,
        look: Observation,
    }

    impl Story {
        fn new(at_start: bool) -> Self {
            let now = Instant::now();
            let look = Observation { now, peek: None, node: GroupNode::Present, assigned: false };
            Self { state: GroupState::new(now, at_start, INTERVAL), now, look }
        }

        /// A look `after` the last one; whether it wants an open.
        fn look(&mut self, peek: Peek, after: Duration) -> bool {
            self.now += after;
            self.look = Observation { now: self.now, peek: Some(peek), ..self.look };
            self.state.observe(&self.look)
        }

        fn answer(&mut self, answer: Occupancy) {
            self.state.record_probe(answer, self.look.peek, self.now);
        }
    }

    #[test]
    fn a_free_group_is_opened_once_and_never_again() {
        let mut story = Story::new(true);
        assert!(story.look(Peek::LooksFree, INTERVAL));
        story.answer(Occupancy::Free);
        for peek in [Peek::LooksFree, Peek::LooksHeld, Peek::LooksFree] {
            for _ in 0..100 {
                assert!(!story.look(peek, INTERVAL));
            }
            let expected = if peek == Peek::LooksHeld { Occupancy::Held } else { Occupancy::Free };
            assert_eq!(story.state.occupancy, expected);
        }
    }

    #[test]
    fn a_group_that_appears_free_is_not_opened_at_all() {
        let mut story = Story::new(false);
        assert!(!story.look(Peek::LooksFree, INTERVAL));
        assert!(!story.look(Peek::LooksHeld, INTERVAL));
        assert_eq!(story.state.occupancy, Occupancy::Held);
    }

    #[test]
    fn a_count_at_first_sight_is_checked_and_may_be_left_over() {
        let mut story = Story::new(false);
        assert!(story.look(Peek::LooksHeld, INTERVAL));
        story.answer(Occupancy::Free);
        assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Free, Evidence::Open));
    }

    #[test]
    fn ebusy_ends_only_by_an_open_that_succeeds_with_growing_pauses() {
        let mut story = Story::new(true);
        assert!(story.look(Peek::LooksFree, INTERVAL));
        story.answer(Occupancy::Held);
        let mut opens = Vec::new();
        for second in 1..=30 {
            if story.look(Peek::LooksFree, INTERVAL) {
                opens.push(second);
                story.answer(Occupancy::Held);
            }
            assert_eq!(story.state.occupancy, Occupancy::Held);
        }
        assert_eq!(opens, [1, 3, 7, 12, 17, 22, 27]);
        story.state.probe_now(story.now);
        assert!(story.look(Peek::LooksFree, Duration::ZERO));
        story.answer(Occupancy::Free);
        assert_eq!(story.state.occupancy, Occupancy::Free);
    }

    #[test]
    fn a_count_that_the_first_look_finds_after_the_first_open_is_asked_about_before_it_is_believed() {
        for (answer, expected) in [
            (Occupancy::Free, Occupancy::Free),
            (Occupancy::Held, Occupancy::Held),
            (Occupancy::Unknown(UnknownReason::TimedOut), Occupancy::Held),
        ] {
            let mut story = Story::new(true);
            assert!(story.state.observation_can_wait(GroupNode::Present, false));
            assert!(story.state.observe(&story.look), "by the open alone");
            story.answer(Occupancy::Free);
            assert!(!story.state.observation_can_wait(GroupNode::Present, false));
            assert!(story.look(Peek::LooksHeld, Duration::ZERO), "at once");
            assert_eq!(story.state.occupancy, Occupancy::Free);
            story.answer(answer);
            assert_eq!(story.state.occupancy, expected);
        }
        let mut story = Story::new(true);
        assert!(story.state.observe(&story.look));
        story.answer(Occupancy::Free);
        assert!(!story.look(Peek::LooksFree, INTERVAL));
        assert!(!story.look(Peek::LooksHeld, INTERVAL), "a change from 0 needs no open");
        assert_eq!(story.state.occupancy, Occupancy::Held);
    }

    #[test]
    fn where_groups_have_no_nodes_the_look_decides_and_nothing_is_opened() {
        let mut story = Story::new(true);
        story.look.node = GroupNode::DevicesOnly;
        assert!(!story.state.observation_can_wait(GroupNode::DevicesOnly, false));
        for (peek, expected) in [
            (Peek::LooksHeld, Occupancy::Held),
            (Peek::LooksFree, Occupancy::Free),
            (Peek::LooksHeld, Occupancy::Held),
            (Peek::Unavailable, Occupancy::Held),
        ] {
            assert!(!story.look(peek, INTERVAL));
            assert_eq!((story.state.occupancy, story.state.evidence), (expected, Evidence::Enable));
        }
        story.look.node = GroupNode::Missing;
        assert!(!story.look(Peek::LooksFree, INTERVAL));
        assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Absent, Evidence::Node));
        story.look.node = GroupNode::DevicesOnly;
        assert!(!story.look(Peek::Unavailable, INTERVAL));
        assert_eq!(story.state.occupancy, Occupancy::Unknown(UnknownReason::NotProbed), "nobody can tell");
    }

    #[test]
    fn where_the_open_is_denied_the_look_decides() {
        let mut story = Story::new(true);
        assert!(story.state.observe(&story.look));
        story.answer(Occupancy::Unknown(UnknownReason::Denied));
        assert!(!story.look(Peek::LooksHeld, Duration::ZERO));
        assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Held, Evidence::Enable));
    }

    #[test]
    fn a_group_whose_device_was_closed_is_asked_at_the_next_look() {
        let mut story = Story::new(true);
        assert!(story.look(Peek::LooksHeld, INTERVAL));
        story.answer(Occupancy::Held);
        for _ in 0..3 {
            assert!(!story.look(Peek::LooksHeld, INTERVAL / 10));
        }
        assert!(story.look(Peek::LooksFree, INTERVAL / 10), "although no interval has gone since the open");
        story.answer(Occupancy::Held);
        assert!(!story.look(Peek::LooksFree, INTERVAL / 2));
        story.now += Duration::from_millis(1);
        assert!(story.look(Peek::LooksFree, INTERVAL / 2 - Duration::from_millis(1)), "an interval, not two");
    }

    #[test]
    fn a_busy_group_with_a_device_open_is_left_alone() {
        let mut story = Story::new(true);
        assert!(story.look(Peek::LooksHeld, INTERVAL));
        story.answer(Occupancy::Held);
        assert!((0..100).all(|_| !story.look(Peek::LooksHeld, INTERVAL)));
        assert!(story.look(Peek::LooksFree, INTERVAL), "the count fell: now the open tells");
    }

    #[test]
    fn an_owned_group_is_never_opened() {
        for (peek, expected) in [(Peek::LooksFree, Occupancy::Free), (Peek::LooksHeld, Occupancy::Held)] {
            let mut story = Story::new(true);
            story.look.assigned = true;
            assert!((0..100).all(|_| !story.look(peek, INTERVAL)));
            assert_eq!(story.state.occupancy, expected);
        }
    }

    #[test]
    fn a_group_that_was_owned_at_start_is_not_opened_when_its_pod_has_gone() {
        let mut story = Story::new(true);
        story.look.assigned = true;
        assert!(!story.look(Peek::LooksHeld, INTERVAL));
        story.look.assigned = false;
        assert!(!story.look(Peek::LooksFree, INTERVAL));
        assert_eq!(story.state.occupancy, Occupancy::Free);
    }

    #[test]
    fn a_count_that_rose_while_a_pod_owned_the_group_is_not_asked_about_when_the_pod_has_gone() {
        let mut story = Story::new(true);
        story.look.assigned = true;
        assert!(!story.look(Peek::LooksFree, INTERVAL));
        assert!(!story.look(Peek::LooksHeld, INTERVAL));
        story.look.assigned = false;
        assert!((0..9).all(|_| !story.look(Peek::LooksHeld, INTERVAL)), "it was seen to rise from 0");
        assert!(!story.look(Peek::LooksFree, INTERVAL), "nor is it opened when it is free again");
        assert_eq!(story.state.occupancy, Occupancy::Free);
    }

    #[test]
    fn a_missing_node_is_absent_and_never_held() {
        let mut story = Story::new(true);
        story.look.node = GroupNode::Missing;
        assert!(!story.look(Peek::LooksHeld, INTERVAL));
        assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Absent, Evidence::Node));
        story.look.node = GroupNode::Present;
        assert!(!story.look(Peek::LooksFree, INTERVAL));
        assert_eq!(story.state.occupancy, Occupancy::Free);
    }

    #[test]
    fn a_denied_open_leaves_the_answer_to_the_peek() {
        for (peek, expected) in [
            (Peek::LooksFree, Occupancy::Free),
            (Peek::LooksHeld, Occupancy::Held),
            (Peek::Unavailable, Occupancy::Unknown(UnknownReason::Denied)),
        ] {
            let mut story = Story::new(true);
            assert!(story.look(peek, INTERVAL));
            story.answer(Occupancy::Unknown(UnknownReason::Denied));
            assert_eq!(story.state.occupancy, expected);
        }
    }

    #[test]
    fn a_late_answer_changes_nothing_and_the_first_open_stays_due() {
        let mut story = Story::new(true);
        assert!(story.look(Peek::LooksHeld, INTERVAL));
        story.answer(Occupancy::Unknown(UnknownReason::TimedOut));
        assert_eq!(story.state.occupancy, Occupancy::Held);
        assert!(!story.look(Peek::LooksHeld, Duration::from_millis(10)));
        assert!(story.look(Peek::LooksHeld, INTERVAL));
    }

    #[test]
    fn where_nothing_can_be_peeked_opens_go_on_with_pauses() {
        let mut story = Story::new(false);
        assert!(story.look(Peek::Unavailable, INTERVAL));
        story.answer(Occupancy::Free);
        let opens = (0..60).filter(|_| {
            let wanted = story.look(Peek::Unavailable, INTERVAL);
            if wanted {
                story.answer(Occupancy::Free);
            }
            wanted
        });
        assert_eq!(opens.count(), 13, "after 2, 6 and then every 5 seconds");
    }
}
