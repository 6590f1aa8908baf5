//! Allocate calls in flight: the groups that each is about to allocate, and whether any call is in flight.
//!
//! Two calls never reserve the same group. The kubelet admits one pod after the other, but it creates containers in parallel and
//! may call Allocate there too (`GetDeviceRunContainerOptions`).

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use vfio_probe::GroupId;

/// The kubelet stores the response of an Allocate in its in-memory state within this time.
const STORED: Duration = Duration::from_millis(50);
/// [`Reservations::idle`] waits no longer than this, however many calls follow each other.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// All reservations. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reservations(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    groups: Mutex<BTreeSet<GroupId>>,
    in_flight: watch::Sender<InFlight>,
}

/// How many calls are in flight, and when the latest one ended.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    count: usize,
    ended: Option<Instant>,
}

/// The groups of one Allocate call. They are released when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    reservations: Reservations,
    groups: BTreeSet<GroupId>,
}

impl Reservations {
    /// Begins an Allocate call, without any group yet.
    pub(crate) fn begin(&self) -> Reservation {
        self.0.in_flight.send_modify(|in_flight| in_flight.count += 1);
        Reservation { reservations: self.clone(), groups: BTreeSet::new() }
    }

    /// Waits until no Allocate call is in flight and the kubelet has stored the latest response, at most 5 s.
    ///
    /// If the kubelet is asked for its pods during an Allocate call, it computes its allocated devices again without those that
    /// it is requesting (`UpdateAllocatedDevices`), and may allocate them to another pod too.
    pub(crate) async fn idle(&self) {
        let mut in_flight = self.0.in_flight.subscribe();
        let _ = timeout(MAX_WAIT, async {
            loop {
                let Ok(now) = in_flight.wait_for(|now| now.count == 0).await.map(|now| *now) else { return };
                let Some(until) = now.ended.map(|ended| ended + STORED) else { return };
                if Instant::now() >= until {
                    return;
                }
                sleep_until(until).await;
            }
        })
        .await;
    }
}

impl Reservation {
    /// Reserves a group. Returns false if another call has reserved it. A group can be reserved by the same call again.
    pub(crate) fn reserve(&mut self, group: GroupId) -> bool {
        if self.groups.contains(&group) {
            return true;
        }
        let reserved = self.reservations.0.groups.lock().insert(group);
        if reserved {
            self.groups.insert(group);
        }
        reserved
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.reservations.0.groups.lock();
        for group in &self.groups {
            reserved.remove(group);
        }
        drop(reserved);
        self.reservations.0.in_flight.send_modify(|in_flight| {
            in_flight.count -= 1;
            in_flight.ended = Some(Instant::now());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_reserved_by_one_call_at_a_time() {
        let reservations = Reservations::default();
        let (mut first, mut second) = (reservations.begin(), reservations.begin());
        assert!(first.reserve(GroupId(51)) && first.reserve(GroupId(51)));
        assert!(!second.reserve(GroupId(51)) && second.reserve(GroupId(52)));
        drop(first);
        assert!(second.reserve(GroupId(51)));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_waits_for_calls_and_the_stored_response() {
        let reservations = Reservations::default();
        let began = Instant::now();
        reservations.idle().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let reservation = reservations.begin();
        let waiting = tokio::spawn({
            let reservations = reservations.clone();
            async move { reservations.idle().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        drop(reservation);
        waiting.await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(1) + STORED, "{:?}", began.elapsed());
        let _endless = reservations.begin();
        let began = Instant::now();
        reservations.idle().await;
        assert!((MAX_WAIT..MAX_WAIT * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
