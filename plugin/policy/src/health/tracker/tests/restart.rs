//! Plays stories with a restart of the plugin: which reasons the next process continues with.

use super::*;

#[test]
fn unhealthy_device_stays_so_over_a_restart() {
    let mut story = Story::new();
    story.sees(A, Held).sees(B, Held).refuses(51, 0).refuses(52, 0).reports(&[(A, HELD), (B, HELD)]);
    // A decision that is possible at once is made.
    story.sees(B, Free).restarts().reports(&[(A, HELD), (B, "")]).again(None);
    story.at(60).sees(B, Held).reports(&[(A, HELD), (B, "")]).again(None).keeps(&[(A, HELD)]);
    story.known = true;
    story.lists(&[A]).reports(&[(A, ""), (B, "")]).again(63);
}

#[test]
fn holder_named_aer_keeps_its_device_unhealthy() {
    // The text of the reason ends like that of fatal PCIe errors, and there are no errors.
    let mut story = Story::new();
    story.sees(A, Held).is_held_by(A, b"AER").reports(&[(A, "")]);
    story.at(3).reports(&[(A, HELD_BY_AER)]);
    story.known = false;
    story.reports(&[(A, HELD_BY_AER)]).restarts().reports(&[(A, HELD_BY_AER)]);
    story.at(60).reports(&[(A, HELD_BY_AER)]).keeps(&[(A, HELD_BY_AER)]);
}

#[test]
fn device_that_was_not_bound_at_the_start_carries_nothing_over() {
    let mut story = Story::new();
    story.sees(A, Held).sees(B, Held).refuses(51, 0).refuses(52, 0).reports(&[(A, HELD), (B, HELD)]);
    // B is bound to another driver when the plugin starts: once it is back, the old reason is over.
    story.restarts().unbinds(B).reports(&[(A, HELD)]).keeps(&[(A, HELD)]);
    story.sees(B, Held).reports(&[(A, HELD), (B, "")]);
    // The same holds for a device that is unbound later.
    story.unbinds(A).reports(&[(B, "")]).leaves(&[A], &[]);
    story.sees(A, Held).reports(&[(A, ""), (B, "")]);
}

#[test]
fn device_that_is_read_late_keeps_its_carried_over_reason() {
    let mut story = Story::new();
    story.sees(A, Held).sees(B, Held).refuses(51, 0).refuses(52, 0).reports(&[(A, HELD), (B, HELD)]);
    // In the first pass the record of A cannot be read. A restart meanwhile keeps the reason too.
    story.restarts().cannot_read(A).reports(&[(B, HELD)]).leaves(&[], &[]).keeps(&[(A, HELD), (B, HELD)]);
    story.restarts().reports(&[(B, HELD)]).keeps(&[(A, HELD), (B, HELD)]);
    story.snapshot.errors.clear();
    story.sees(A, Held).reports(&[(A, HELD), (B, HELD)]);
    // It was decided: from now on the previous decision counts.
    story.sees(A, Free).reports(&[(A, ""), (B, HELD)]).sees(A, Held).reports(&[(A, ""), (B, HELD)]);
    // In the first pass the list of bound devices cannot be read.
    story.restarts().unbinds(A).unbinds(B).snapshot.listing_failed = true;
    story.reports(&[]).keeps(&[(B, HELD)]).snapshot.listing_failed = false;
    story.sees(A, Held).sees(B, Held).reports(&[(A, ""), (B, HELD)]);
}

#[test]
fn device_that_is_gone_carries_nothing_over() {
    let mut story = Story::new();
    story.sees(A, Held).refuses(51, 0).reports(&[(A, HELD)]).restarts().cannot_read(A);
    story.gone.insert(id(A));
    story.reports(&[]).keeps(&[]);
    (story.gone, story.snapshot.errors) = Default::default();
    story.sees(A, Held).reports(&[(A, "")]);
}

#[test]
fn device_unbound_before_the_start_is_listed_if_assigned() {
    let mut story = Story::new();
    let devices = [A, B].map(|address| device_at(address, Free, story.now));
    story.snapshot.unbound = devices.map(|device| DeviceState { group: None, ..device }).into();
    // B is not assigned.
    story.lists(&[A]).restarts().reports(&[(A, UNBOUND)]).leaves(&[], &[A]);
    story.snapshot.unbound.clear();
    story.reports(&[(A, UNBOUND)]).leaves(&[], &[A]);
    story.ends_the_pod().reports(&[]).leaves(&[A], &[]);
}
