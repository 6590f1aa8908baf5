//! What an Allocate call of one resource works with.

use crate::allocate::gate::AllocateGate;
use crate::allocate::verify::{Checks, LIST_FIRST};
use crate::assignments::AssignmentsHandle;
use crate::kubelet::list_and_watch::DeviceListBroadcast;
use crate::metrics::ResourceMetrics;
use crate::node::monitor::MonitorHandle;
use crate::publisher::HealthPublisher;
use crate::reservations::Reservations;
use std::path::PathBuf;
use std::sync::Arc;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::pools::terms::BusyAllocate;

/// Answers the Allocate calls of one resource.
pub(crate) struct Allocator {
    /// The resource's name.
    pub(crate) resource: Arc<str>,
    /// The kubelet's streams of lists.
    pub(crate) broadcast: DeviceListBroadcast,
    /// The monitor.
    pub(crate) monitor: MonitorHandle,
    /// The health that was reported.
    pub(crate) publisher: Arc<HealthPublisher>,
    /// Which pod each device is assigned to.
    pub(crate) assignments: AssignmentsHandle,
    /// The groups that other Allocate calls are about to allocate.
    pub(crate) reservations: Reservations,
    /// What to do with a held device, where its pool does not say.
    pub(crate) busy_allocate: BusyAllocate,
    /// Lets calls wait while another process of the plugin takes over or hands over.
    pub(crate) gate: AllocateGate,
    /// The directory of the kubelet's checkpoint.
    pub(crate) kubelet_dir: PathBuf,
    /// Counts the calls; none without `--listen`.
    pub(crate) metrics: Option<ResourceMetrics>,
}

impl Allocator {
    /// Returns the checks of devices as they are now.
    pub(super) fn checks(&self) -> Checks<'_> {
        Checks { monitor: &self.monitor }
    }

    /// Returns the monitor's latest snapshot.
    pub(super) fn snapshot(&self) -> Arc<NodeSnapshot> {
        self.checks().snapshot()
    }

    /// Waits until a list went out in which all these devices are Unhealthy, at most 200 ms.
    pub(super) async fn wait_until_unhealthy(&self, ids: &[String]) {
        // Lists are in the order of ids.
        let unhealthy = |id: &String, list: &[kubelet_api::v1beta1::Device]| {
            let place = list.binary_search_by(|device| device.id.cmp(id));
            let device = place.ok().and_then(|place| list.get(place));
            device.is_some_and(|device| device.health == kubelet_api::UNHEALTHY)
        };
        let wanted = |list: &Arc<Vec<_>>| ids.iter().all(|id| unhealthy(id, list));
        self.broadcast.wait_until_sent(LIST_FIRST, wanted).await;
    }
}
