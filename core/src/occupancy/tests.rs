//! Tests of the combination of peek and probe, and of the state of a group over time.

mod holder;

use super::*;
use crate::cgroup::Container;
use crate::holders::Via;
use crate::id::GroupId;
use crate::text::Text;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

struct Story {
    state: GroupState,
    now: Instant,
    seen: Observation,
}

impl Story {
    fn new(at_start: bool) -> Self {
        let now = Instant::now();
        let seen = Observation { now, peek: None, node: GroupNode::Present, assigned: false };
        Self { state: GroupState::new(now, at_start, INTERVAL), now, seen }
    }

    /// Records a peek, `after` the last observation. Returns whether a probe is wanted.
    fn peek(&mut self, peek: Peek, after: Duration) -> bool {
        self.now += after;
        self.seen = Observation { now: self.now, peek: Some(peek), ..self.seen };
        self.state.observe(&self.seen)
    }

    fn record(&mut self, result: Occupancy) {
        self.state.record_probe(result, self.seen.peek, self.now);
    }
}

fn holder(via: Via) -> Holder {
    let (command, container) = (Text::lossy(b"qemu-system-x86"), Container::default());
    Holder { group: GroupId(51), pid: 4711, start_time: 1, uid: None, command, via, container }
}

#[test]
fn evidence_counts_in_the_documented_order() {
    let denied = Occupancy::Unknown(UnknownReason::Denied);
    let not_probed = (Occupancy::Unknown(UnknownReason::NotProbed), Evidence::None);
    let by_holder = (Occupancy::Held, Evidence::Holder);
    for via in [Via::Group, Via::Device] {
        let found = [holder(via)];
        for peek in [Peek::LooksFree, Peek::LooksHeld, Peek::Unavailable] {
            for (probe, expected) in [
                (None, by_holder),
                (Some(denied), by_holder),
                (Some(Occupancy::Unknown(UnknownReason::TimedOut)), by_holder),
                (Some(Occupancy::Absent), by_holder),
                (Some(Occupancy::Held), (Occupancy::Held, Evidence::Open)),
                // The open that succeeded is newer than the search.
                (Some(Occupancy::Free), (Occupancy::Free, Evidence::Open)),
            ] {
                assert_eq!(combine_with_holders(peek, &found, probe), expected, "{via:?} {peek:?} {probe:?}");
            }
        }
    }
    // Without a holder, nothing changes.
    let combined = combine_with_holders(Peek::LooksHeld, &[], None);
    assert_eq!(combined, (Occupancy::Held, Evidence::Enable));
    assert_eq!(combine_with_holders(Peek::LooksFree, &[], None), (Occupancy::Free, Evidence::Enable));
    assert_eq!(combine_with_holders(Peek::Unavailable, &[], None), not_probed);
}

#[test]
fn open_of_a_devices_own_node_counts_only_without_a_count() {
    let found = [holder(Via::Cdev)];
    let free = (Occupancy::Free, Evidence::Enable);
    assert_eq!(combine_with_holders(Peek::LooksFree, &found, None), free);
    let held = (Occupancy::Held, Evidence::Enable);
    assert_eq!(combine_with_holders(Peek::LooksHeld, &found, None), held);
    let held = (Occupancy::Held, Evidence::Holder);
    assert_eq!(combine_with_holders(Peek::Unavailable, &found, None), held);
}

#[test]
fn free_group_is_probed_once() {
    let mut story = Story::new(true);
    assert!(story.peek(Peek::LooksFree, INTERVAL));
    story.record(Occupancy::Free);
    for peek in [Peek::LooksFree, Peek::LooksHeld, Peek::LooksFree] {
        for _ in 0..100 {
            assert!(!story.peek(peek, INTERVAL));
        }
        let expected = if peek == Peek::LooksHeld { Occupancy::Held } else { Occupancy::Free };
        assert_eq!(story.state.occupancy, expected);
    }
}

#[test]
fn group_that_appears_free_is_never_probed() {
    let mut story = Story::new(false);
    assert!(!story.peek(Peek::LooksFree, INTERVAL));
    assert!(!story.peek(Peek::LooksHeld, INTERVAL));
    assert_eq!(story.state.occupancy, Occupancy::Held);
}

#[test]
fn count_at_discovery_is_probed_and_may_be_stale() {
    let mut story = Story::new(false);
    assert!(story.peek(Peek::LooksHeld, INTERVAL));
    story.record(Occupancy::Free);
    assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Free, Evidence::Open));
}

#[test]
fn ebusy_ends_by_a_probe_only_with_growing_pauses() {
    let mut story = Story::new(true);
    assert!(story.peek(Peek::LooksFree, INTERVAL));
    story.record(Occupancy::Held);
    let mut probed = Vec::new();
    for second in 1..=30 {
        if story.peek(Peek::LooksFree, INTERVAL) {
            probed.push(second);
            story.record(Occupancy::Held);
        }
        assert_eq!(story.state.occupancy, Occupancy::Held);
    }
    assert_eq!(probed, [1, 3, 7, 12, 17, 22, 27]);
    story.state.probe_now(story.now);
    assert!(story.peek(Peek::LooksFree, Duration::ZERO));
    story.record(Occupancy::Free);
    assert_eq!(story.state.occupancy, Occupancy::Free);
}

#[test]
fn count_at_the_first_peek_after_a_probe_is_confirmed() {
    for (result, expected) in [
        (Occupancy::Free, Occupancy::Free),
        (Occupancy::Held, Occupancy::Held),
        (Occupancy::Unknown(UnknownReason::TimedOut), Occupancy::Held),
    ] {
        let mut story = Story::new(true);
        assert!(story.state.observation_can_wait(GroupNode::Present, false));
        assert!(story.state.observe(&story.seen), "the probe alone decides");
        story.record(Occupancy::Free);
        assert!(!story.state.observation_can_wait(GroupNode::Present, false));
        assert!(story.peek(Peek::LooksHeld, Duration::ZERO), "at once");
        assert_eq!(story.state.occupancy, Occupancy::Free);
        story.record(result);
        assert_eq!(story.state.occupancy, expected);
    }
    let mut story = Story::new(true);
    assert!(story.state.observe(&story.seen));
    story.record(Occupancy::Free);
    assert!(!story.peek(Peek::LooksFree, INTERVAL));
    assert!(!story.peek(Peek::LooksHeld, INTERVAL), "a rise from 0 needs no probe");
    assert_eq!(story.state.occupancy, Occupancy::Held);
}

#[test]
fn without_group_nodes_the_peek_decides() {
    let mut story = Story::new(true);
    story.seen.node = GroupNode::DevicesOnly;
    assert!(!story.state.observation_can_wait(GroupNode::DevicesOnly, false));
    for (peek, expected) in [
        (Peek::LooksHeld, Occupancy::Held),
        (Peek::LooksFree, Occupancy::Free),
        (Peek::LooksHeld, Occupancy::Held),
        (Peek::Unavailable, Occupancy::Held),
    ] {
        assert!(!story.peek(peek, INTERVAL));
        assert_eq!((story.state.occupancy, story.state.evidence), (expected, Evidence::Enable));
    }
    story.seen.node = GroupNode::Missing;
    assert!(!story.peek(Peek::LooksFree, INTERVAL));
    assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Absent, Evidence::Node));
    story.seen.node = GroupNode::DevicesOnly;
    assert!(!story.peek(Peek::Unavailable, INTERVAL));
    assert_eq!(story.state.occupancy, Occupancy::Unknown(UnknownReason::NotProbed), "nothing can decide");
}

#[test]
fn first_peek_decides_after_a_denied_probe() {
    let mut story = Story::new(true);
    assert!(story.state.observe(&story.seen));
    story.record(Occupancy::Unknown(UnknownReason::Denied));
    assert!(!story.peek(Peek::LooksHeld, Duration::ZERO));
    assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Held, Evidence::Enable));
}

#[test]
fn group_is_probed_as_soon_as_its_count_falls() {
    let mut story = Story::new(true);
    assert!(story.peek(Peek::LooksHeld, INTERVAL));
    story.record(Occupancy::Held);
    for _ in 0..3 {
        assert!(!story.peek(Peek::LooksHeld, INTERVAL / 10));
    }
    assert!(story.peek(Peek::LooksFree, INTERVAL / 10), "before the end of the interval");
    story.record(Occupancy::Held);
    assert!(!story.peek(Peek::LooksFree, INTERVAL / 2));
    story.now += Duration::from_millis(1);
    assert!(
        story.peek(Peek::LooksFree, INTERVAL / 2 - Duration::from_millis(1)),
        "after one interval, not two"
    );
}

#[test]
fn held_group_with_an_open_device_is_not_probed() {
    let mut story = Story::new(true);
    assert!(story.peek(Peek::LooksHeld, INTERVAL));
    story.record(Occupancy::Held);
    assert!((0..100).all(|_| !story.peek(Peek::LooksHeld, INTERVAL)));
    assert!(story.peek(Peek::LooksFree, INTERVAL), "the count fell, so the probe decides");
}

#[test]
fn assigned_group_is_never_probed() {
    for (peek, expected) in [(Peek::LooksFree, Occupancy::Free), (Peek::LooksHeld, Occupancy::Held)] {
        let mut story = Story::new(true);
        story.seen.assigned = true;
        assert!((0..100).all(|_| !story.peek(peek, INTERVAL)));
        assert_eq!(story.state.occupancy, expected);
    }
}

#[test]
fn group_assigned_at_start_is_not_probed_after_its_pod() {
    let mut story = Story::new(true);
    story.seen.assigned = true;
    assert!(!story.peek(Peek::LooksHeld, INTERVAL));
    story.seen.assigned = false;
    assert!(!story.peek(Peek::LooksFree, INTERVAL));
    assert_eq!(story.state.occupancy, Occupancy::Free);
}

#[test]
fn count_that_rose_while_assigned_is_not_probed_later() {
    let mut story = Story::new(true);
    story.seen.assigned = true;
    assert!(!story.peek(Peek::LooksFree, INTERVAL));
    assert!(!story.peek(Peek::LooksHeld, INTERVAL));
    story.seen.assigned = false;
    assert!((0..9).all(|_| !story.peek(Peek::LooksHeld, INTERVAL)), "the count rose from 0");
    assert!(!story.peek(Peek::LooksFree, INTERVAL), "no probe after the count fell");
    assert_eq!(story.state.occupancy, Occupancy::Free);
}

#[test]
fn group_without_a_node_is_absent_and_not_held() {
    let mut story = Story::new(true);
    story.seen.node = GroupNode::Missing;
    assert!(!story.peek(Peek::LooksHeld, INTERVAL));
    assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Absent, Evidence::Node));
    story.seen.node = GroupNode::Present;
    assert!(!story.peek(Peek::LooksFree, INTERVAL));
    assert_eq!(story.state.occupancy, Occupancy::Free);
}

#[test]
fn peek_decides_when_the_probe_is_denied() {
    for (peek, expected) in [
        (Peek::LooksFree, Occupancy::Free),
        (Peek::LooksHeld, Occupancy::Held),
        (Peek::Unavailable, Occupancy::Unknown(UnknownReason::Denied)),
    ] {
        let mut story = Story::new(true);
        assert!(story.peek(peek, INTERVAL));
        story.record(Occupancy::Unknown(UnknownReason::Denied));
        assert_eq!(story.state.occupancy, expected);
    }
}

#[test]
fn timed_out_probe_changes_nothing_and_stays_due() {
    let mut story = Story::new(true);
    assert!(story.peek(Peek::LooksHeld, INTERVAL));
    story.record(Occupancy::Unknown(UnknownReason::TimedOut));
    assert_eq!(story.state.occupancy, Occupancy::Held);
    assert!(!story.peek(Peek::LooksHeld, Duration::from_millis(10)));
    assert!(story.peek(Peek::LooksHeld, INTERVAL));
}

#[test]
fn without_a_peek_probes_go_on_with_pauses() {
    let mut story = Story::new(false);
    assert!(story.peek(Peek::Unavailable, INTERVAL));
    story.record(Occupancy::Free);
    let probes = (0..60).filter(|_| {
        let wanted = story.peek(Peek::Unavailable, INTERVAL);
        if wanted {
            story.record(Occupancy::Free);
        }
        wanted
    });
    assert_eq!(probes.count(), 13, "after 2 and 6 seconds, then every 5");
}

#[test]
fn conclusive_probe_decides_and_else_the_peek() {
    let denied = Occupancy::Unknown(UnknownReason::Denied);
    let not_probed = Occupancy::Unknown(UnknownReason::NotProbed);
    for (peek, without, inconclusive) in [
        (Peek::LooksHeld, (Occupancy::Held, Evidence::Enable), (Occupancy::Held, Evidence::Enable)),
        (Peek::LooksFree, (Occupancy::Free, Evidence::Enable), (Occupancy::Free, Evidence::Enable)),
        (Peek::Unavailable, (not_probed, Evidence::None), (denied, Evidence::Open)),
    ] {
        assert_eq!(combine(peek, None), without, "{peek:?}");
        assert_eq!(combine(peek, Some(denied)), inconclusive, "{peek:?}");
        for result in [Occupancy::Free, Occupancy::Held, Occupancy::Absent] {
            assert_eq!(combine(peek, Some(result)), (result, Evidence::Open), "{peek:?}");
        }
    }
}
