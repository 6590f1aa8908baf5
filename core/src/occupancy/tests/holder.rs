//! Tests of a holder found in /proc as evidence over time.

use super::{INTERVAL, Story};
use crate::occupancy::{Evidence, GroupNode, Occupancy, UnknownReason};
use crate::peek::Peek;

#[test]
fn holder_is_evidence_until_it_is_forgotten() {
    let mut story = Story::new(false);
    story.peek(Peek::LooksFree, INTERVAL);
    assert_eq!(story.state.occupancy, Occupancy::Free);
    story.now += INTERVAL;
    story.state.record_holder(story.now, story.now);
    assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Held, Evidence::Holder));
    // A holder without a device does not raise the count, and no probe is made.
    assert!(!story.peek(Peek::LooksFree, INTERVAL));
    assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Held, Evidence::Holder));
    story.state.forget_holder(Some(Peek::LooksFree), story.now);
    assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Free, Evidence::Enable));
}

#[test]
fn count_takes_over_from_a_holder_that_opens_the_device() {
    let mut story = Story::new(false);
    story.peek(Peek::LooksFree, INTERVAL);
    story.state.record_holder(story.now, story.now);
    let since = story.state.since;
    story.peek(Peek::LooksHeld, INTERVAL);
    assert_eq!((story.state.occupancy, story.state.evidence), (Occupancy::Held, Evidence::Enable));
    assert_eq!(story.state.since, since);
    story.peek(Peek::LooksFree, INTERVAL);
    assert_eq!(story.state.occupancy, Occupancy::Free);
}

#[test]
fn holder_that_was_seen_before_something_newer_is_ignored() {
    let mut story = Story::new(false);
    story.peek(Peek::LooksHeld, INTERVAL);
    let seen = story.now;
    story.peek(Peek::LooksFree, INTERVAL);
    story.state.record_holder(seen, story.now);
    assert_eq!(story.state.occupancy, Occupancy::Free, "it was freed after the sighting");
    let seen = story.now;
    story.now += INTERVAL;
    story.state.record_probe(Occupancy::Free, Some(Peek::LooksFree), story.now);
    story.state.record_holder(seen, story.now);
    assert_eq!(story.state.occupancy, Occupancy::Free, "an open succeeded after the sighting");
}

#[test]
fn probe_decides_over_a_holder() {
    let mut story = Story::new(false);
    story.peek(Peek::LooksFree, INTERVAL);
    for (result, expected) in [
        (Occupancy::Held, (Occupancy::Held, Evidence::Open)),
        (Occupancy::Unknown(UnknownReason::Denied), (Occupancy::Held, Evidence::Holder)),
        (Occupancy::Absent, (Occupancy::Held, Evidence::Holder)),
        (Occupancy::Free, (Occupancy::Free, Evidence::Open)),
    ] {
        let mut state = story.state;
        state.record_holder(story.now, story.now);
        state.record_probe(result, Some(Peek::LooksFree), story.now + INTERVAL);
        assert_eq!((state.occupancy, state.evidence), expected, "{result:?}");
    }
}

#[test]
fn forgotten_holder_without_a_count_restores_the_state() {
    let mut story = Story::new(false);
    story.peek(Peek::Unavailable, INTERVAL);
    let before = (story.state.occupancy, story.state.evidence);
    story.state.record_holder(story.now, story.now);
    assert_eq!(story.state.evidence, Evidence::Holder);
    story.peek(Peek::Unavailable, INTERVAL);
    assert_eq!(story.state.evidence, Evidence::Holder);
    story.state.forget_holder(Some(Peek::Unavailable), story.now);
    assert_eq!((story.state.occupancy, story.state.evidence), before);
}

#[test]
fn missing_node_ends_the_evidence_of_a_holder() {
    let mut story = Story::new(false);
    story.peek(Peek::LooksFree, INTERVAL);
    story.state.record_holder(story.now, story.now);
    story.seen.node = GroupNode::Missing;
    story.peek(Peek::LooksFree, INTERVAL);
    assert_eq!(story.state.occupancy, Occupancy::Absent);
}
