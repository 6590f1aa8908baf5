//! Passes snapshots and assignments to the publisher, and what it decides to the resources and to the DRA driver.

use crate::assignments::AssignmentsHandle;
use crate::device_plugin::resources::ResourceSet;
use crate::node::monitor::MonitorHandle;
use crate::publisher::{HealthPublisher, Published};
use std::sync::Arc;
use std::time::Instant;
use tokio::time::sleep_until;

#[cfg(feature = "dra")]
pub(super) use crate::dra::Offers;
#[cfg(not(feature = "dra"))]
pub(super) use none::Offers;

/// What takes part in a decision.
pub(super) struct Publishing {
    pub(super) monitor: MonitorHandle,
    pub(super) publisher: Arc<HealthPublisher>,
    pub(super) assignments: AssignmentsHandle,
    /// The device plugin's side.
    pub(super) resources: ResourceSet,
    /// The DRA driver's side. None if it does not run.
    pub(super) offers: Option<Offers>,
}

impl Publishing {
    /// Decides whenever anything has changed; never returns.
    pub(super) async fn run(self) {
        let Self { monitor, publisher, assignments, mut resources, offers } = self;
        let mut snapshots = monitor.snapshots.clone();
        let mut changes = assignments.subscribe();
        loop {
            let requests = offers.as_ref().map_or(0, Offers::requests);
            let snapshot = snapshots.borrow_and_update().clone();
            changes.mark_unchanged();
            // Before the kubelet was polled once, a device of a device plugin's pod would be offered.
            let is_polled = offers.is_none() || assignments.has_polled();
            let (current, changed) = assignments.take();
            let mut next = None;
            let has_lists = snapshot.is_some();
            if let Some(snapshot) = snapshot {
                let Published { lists, decide_again } =
                    publisher.decide(&snapshot, &current, &changed, Instant::now());
                next = decide_again.map(tokio::time::Instant::from_std);
                let contested = publisher.contested();
                // A confirmed assignment ends a refusal.
                assignments.set_times_matter(!contested.is_empty());
                monitor.set_contested(contested);
                if let Some(offers) = offers.as_ref().filter(|_| is_polled) {
                    offers.decided(requests, &publisher, &snapshot, &current);
                }
                if let Some(lists) = lists {
                    let is_assigned = |name: &str| current.records().any(|record| record.resource == name);
                    resources.publish(lists, is_assigned);
                }
            }
            tokio::select! {
                Ok(()) = snapshots.changed() => {}
                Ok(()) = changes.changed() => {}
                () = publisher.changed.notified() => {}
                () = requested(offers.as_ref()) => {}
                () = sleep_until(next.unwrap_or_else(tokio::time::Instant::now)), if next.is_some() => {}
                // The kubelet writes its checkpoint again after every list, also after one that is not new. Not before the first lists are
                // known: a resource that has devices would be registered with an empty list.
                () = assignments.checkpoint_is_stale(), if has_lists => {
                    let mut offered = current.records().filter(|record| record.is_of_this_plugin());
                    resources.resend(offered.next().map(|record| record.resource.as_str()));
                }
            }
        }
    }
}

/// Waits until a call of the driver requests a decision.
async fn requested(offers: Option<&Offers>) {
    match offers {
        Some(offers) => offers.requested().await,
        None => std::future::pending().await,
    }
}

/// A program without DRA has no driver.
#[cfg(not(feature = "dra"))]
mod none {
    use crate::publisher::HealthPublisher;
    use vfio_plugin_policy::assignments::index::Assignments;
    use vfio_plugin_policy::device::NodeSnapshot;

    pub(in crate::commands::serve) enum Offers {}

    impl Offers {
        pub(super) fn requests(&self) -> u64 {
            match *self {}
        }

        pub(super) async fn requested(&self) {
            match *self {}
        }

        pub(super) fn decided(&self, _: u64, _: &HealthPublisher, _: &NodeSnapshot, _: &Assignments) {
            match *self {}
        }
    }
}
