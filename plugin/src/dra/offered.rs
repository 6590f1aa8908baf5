//! Turns decisions into what the driver wants to publish, and reports when the API server has stored it.
//!
//! A refusal is sent, and the hold of a claim ends, only after the API server has stored that the device must not be allocated.
//! [`Stored::wait_until_withheld`] is that barrier.

use crate::dra::described::listed;
use crate::dra::facts::KnownFacts;
use crate::publisher::HealthPublisher;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::dra::devices::Listed;
use vfio_plugin_policy::dra::health::HealthReport;
use vfio_probe::DeviceId;

/// The number of requests for a decision before any call of the kubelet has made one.
pub(super) const NO_CALL: u64 = 1;

/// What the driver wants to publish.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Wanted {
    /// The requests for a decision that it takes into account.
    pub(super) requests: u64,
    /// The devices.
    pub(super) devices: Vec<Listed>,
    /// Their health, for the pods that have them.
    pub(super) health: Vec<HealthReport>,
}

/// What the API server stores, as far as is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Acknowledged {
    /// The requests that the stored slices take into account. 0 before the slices are stored for the first time.
    pub(super) requests: u64,
    /// The devices that the scheduler may allocate.
    pub(super) allocatable: BTreeSet<DeviceId>,
}

/// Requests decisions, and waits until they are stored. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    requests: Arc<AtomicU64>,
    requested: Arc<Notify>,
    acknowledged: watch::Sender<Acknowledged>,
}

impl Stored {
    /// Returns the state before anything is known.
    pub(super) fn new() -> Self {
        Self {
            requests: Arc::new(AtomicU64::new(NO_CALL)),
            requested: Arc::default(),
            acknowledged: watch::Sender::new(Acknowledged::default()),
        }
    }

    /// Waits until the API server stores that the scheduler must allocate none of these devices. Returns false if it does not by the
    /// deadline.
    ///
    /// To be called after the cause is known to the publisher. What was stored before does not count: a write that offers a device
    /// again may be under way.
    pub(super) async fn wait_until_withheld(
        &self,
        devices: &BTreeSet<DeviceId>,
        deadline: tokio::time::Instant,
    ) -> bool {
        let request = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        self.requested.notify_one();
        let mut acknowledged = self.acknowledged.subscribe();
        let is_stored = |now: &Acknowledged| now.requests >= request && now.allocatable.is_disjoint(devices);
        timeout_at(deadline, acknowledged.wait_for(is_stored)).await.is_ok_and(|stored| stored.is_ok())
    }

    /// Records what the API server stores.
    pub(super) fn acknowledge(&self, acknowledged: Acknowledged) {
        self.acknowledged.send_replace(acknowledged);
    }

    /// Returns the number of requests so far.
    fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Passes decisions on to what is published.
pub(crate) struct Offers {
    /// The requests.
    pub(super) stored: Stored,
    /// What does not change of a device.
    pub(super) facts: KnownFacts,
    /// What is wanted.
    pub(super) wanted: watch::Sender<Option<Arc<Wanted>>>,
}

impl Offers {
    /// Returns the number of requests for a decision. To be read before the decision is made.
    pub(crate) fn requests(&self) -> u64 {
        self.stored.requests()
    }

    /// Waits until a decision is requested.
    pub(crate) async fn requested(&self) {
        self.stored.requested.notified().await;
    }

    /// Takes what was decided last. `requests` are those that the decision takes into account.
    pub(crate) fn decided(
        &self,
        requests: u64,
        publisher: &HealthPublisher,
        snapshot: &NodeSnapshot,
        assignments: &Assignments,
    ) {
        self.facts.look_up(snapshot);
        let (mut devices, mut health) = (Vec::new(), Vec::new());
        publisher.visit(snapshot, assignments, |device, decision, _| {
            let is_bound = snapshot.get(device.device.id).is_some();
            let entry = listed(&self.facts, device, is_bound, decision, assignments);
            let report = |decision| HealthReport::new(device.device.id, decision);
            health.extend(decision.filter(|_| entry.is_some()).map(report));
            devices.extend(entry);
        });
        let published: BTreeSet<DeviceId> = devices.iter().map(|device| device.id).collect();
        self.facts.retain(|id| published.contains(&id));
        self.wanted.send_if_modified(|known| {
            let next = Wanted { requests, devices, health };
            let is_same = known.as_deref() == Some(&next);
            if !is_same {
                *known = Some(Arc::new(next));
            }
            !is_same
        });
    }
}
