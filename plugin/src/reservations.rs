//! Allocates under way: which groups they are about to give away, so that no two of them give away the same one, and when
//! none is.
//!
//! The kubelet admits one pod after the other, but creates containers at the same time, and may call Allocate there too
//! (`GetDeviceRunContainerOptions`).

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use vfio_probe::GroupId;

/// The kubelet takes an answer into its books within this.
const TAKEN_IN: Duration = Duration::from_millis(50);
/// However many Allocates follow each other, [`Reservations::idle`] waits no longer.
const LONGEST: Duration = Duration::from_secs(5);

/// All reservations. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reservations(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    groups: Mutex<BTreeSet<GroupId>>,
    underway: watch::Sender<Underway>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Underway {
    count: usize,
    ended: Option<Instant>,
}

/// One Allocate, and what it has claimed; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    reservations: Reservations,
    groups: Vec<GroupId>,
}

impl Reservations {
    /// An Allocate begins; it has claimed nothing yet.
    pub(crate) fn begin(&self) -> Reservation {
        self.0.underway.send_modify(|underway| underway.count += 1);
        Reservation { reservations: self.clone(), groups: Vec::new() }
    }

    /// Waits until no Allocate is under way and the last one's answer is in the kubelet's books. A kubelet that is asked for
    /// its pods meanwhile makes its list of allocated devices anew, without what it is just asking for
    /// (`UpdateAllocatedDevices`), and may give that to another pod too.
    pub(crate) async fn idle(&self) {
        let mut underway = self.0.underway.subscribe();
        let _ = timeout(LONGEST, async {
            loop {
                let Ok(now) = underway.wait_for(|now| now.count == 0).await.map(|now| *now) else { return };
                let Some(until) = now.ended.map(|ended| ended + TAKEN_IN) else { return };
                if Instant::now() >= until {
                    return;
                }
                sleep_until(until).await;
            }
        })
        .await;
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeSet<GroupId>) -> T) -> T {
        change(&mut self.0.groups.lock())
    }
}

impl Reservation {
    /// Reservations a group; false if another Allocate has it. Claiming one's own again is fine.
    pub(crate) fn take(&mut self, group: GroupId) -> bool {
        if self.groups.contains(&group) {
            return true;
        }
        let taken = self.reservations.with(|groups| groups.insert(group));
        if taken {
            self.groups.push(group);
        }
        taken
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reservations.with(|groups| groups.retain(|group| !self.groups.contains(group)));
        self.reservations.0.underway.send_modify(|underway| {
            underway.count -= 1;
            underway.ended = Some(Instant::now());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_claimed_by_one_at_a_time() {
        let reservations = Reservations::default();
        let (mut first, mut second) = (reservations.begin(), reservations.begin());
        assert!(first.take(GroupId(51)) && first.take(GroupId(51)));
        assert!(!second.take(GroupId(51)) && second.take(GroupId(52)));
        drop(first);
        assert!(second.take(GroupId(51)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_when_the_last_answer_was_taken_in() {
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
        assert!(began.elapsed() >= Duration::from_secs(1) + TAKEN_IN, "{:?}", began.elapsed());
        let _for_ever = reservations.begin();
        let began = Instant::now();
        reservations.idle().await;
        assert!((LONGEST..LONGEST * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
