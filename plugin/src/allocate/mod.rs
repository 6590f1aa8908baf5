//! What stands between the kubelet's books and a machine: an Allocate is granted only if the group can be opened now.

mod device_specs;
mod response;
mod substitute;
mod verify;
mod wake;

use crate::assignments::AssignmentsHandle;
use crate::kubelet::checkpoint;
use crate::kubelet::list_and_watch::{DeviceList, DeviceListBroadcast};
use crate::node::monitor::MonitorHandle;
use crate::node::probe;
use crate::publisher::HealthPublisher;
use crate::reservations::Reservations;
use kubelet_api::v1beta1::{AllocateRequest, AllocateResponse};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::Status;
use verify::Taken;
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::{AllocateError, Plan, PlannedContainer};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate};
use vfio_probe::GroupId;

/// The kubelet gives Allocate no deadline (`context.TODO()`), so this is ours.
const ALLOCATE: Duration = Duration::from_secs(2);
/// The list that calls a refused device Unhealthy goes out before the refusal, if it can be had in this time.
const LIST_FIRST: Duration = Duration::from_millis(200);

/// One resource's.
pub(crate) struct Allocator {
    /// The resource.
    pub(crate) resource: Arc<str>,
    /// Where the kubelet is told.
    pub(crate) broadcast: DeviceListBroadcast,
    /// The monitor.
    pub(crate) monitor: MonitorHandle,
    /// What the kubelet has been told.
    pub(crate) publisher: Arc<HealthPublisher>,
    /// What pods own.
    pub(crate) owners: AssignmentsHandle,
    /// What other Allocates are about to give away.
    pub(crate) reservations: Reservations,
    /// What to do with a device that is held after all, where its pool does not say.
    pub(crate) busy_allocate: BusyAllocate,
    /// Where the kubelet's checkpoint is.
    pub(crate) kubelet_dir: PathBuf,
}

impl Allocator {
    /// Answers a request by a deadline of its own; nothing is asked of the kubelet meanwhile.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for ids that are not this resource's, FAILED_PRECONDITION for devices that cannot be given; each
    /// names the device and says why.
    pub(crate) async fn allocate(&self, request: &AllocateRequest) -> Result<AllocateResponse, Status> {
        tracing::debug!(resource = %self.resource, ?request, "asked to allocate");
        let answer = self.give(request).await;
        match &answer {
            Ok(_) => tracing::debug!(resource = %self.resource, ?request, "allocated"),
            Err(error) => {
                tracing::warn!(resource = %self.resource, %error, "refused");
            }
        }
        answer.map_err(|error| response::status(&error))
    }

    async fn give(&self, request: &AllocateRequest) -> Result<AllocateResponse, AllocateError> {
        let mut reservation = self.reservations.begin();
        let deadline = Instant::now() + ALLOCATE;
        let (snapshot, owners) = (self.snapshot(), self.owners.current());
        let containers = request.container_requests.iter().map(|container| container.devices_ids.as_slice());
        let mut plan = allocation::plan(&self.resource, containers, &snapshot, &owners)?;
        for (group, view) in plan.containers.iter().flat_map(PlannedContainer::groups) {
            if !reservation.take(group) {
                return Err(AllocateError::GroupReserved { device: view.device.id, group });
            }
        }
        // All at once: if one hangs until the deadline, the others have been asked all the same.
        let mut openings = Vec::new();
        for (place, container) in plan.containers.iter().enumerate() {
            for (group, view) in container.groups() {
                openings.push((place, group, view, probe::begin(&self.monitor, group, deadline)));
            }
        }
        for (place, group, view, first) in openings {
            let Some(taken) = self.check(view, first, &owners, deadline).await? else { continue };
            let denied = match view.terms.busy_allocate.unwrap_or(self.busy_allocate) {
                BusyAllocate::Reject => Err(""),
                BusyAllocate::Substitute => {
                    self.substitute(&mut plan, place, group, &snapshot, &mut reservation, deadline).await
                }
            };
            if let Err(more) = denied {
                return Err(self.refuse(taken, group, view, more).await);
            }
        }
        self.check_sleepers(&plan, deadline).await?;
        for view in plan.containers.iter().flat_map(|container| &container.views) {
            self.check_bound(view)?;
        }
        for container in &plan.containers {
            let pinned = container.terms().pinned();
            self.owners.record_allocate(&self.resource, container.ids.clone(), container.real(), pinned);
        }
        self.report_peers(&plan, &snapshot).await;
        Ok(response::response(&self.resource, &plan, self.means(&plan)))
    }

    /// What is known now.
    pub(crate) fn snapshot(&self) -> Arc<NodeSnapshot> {
        self.monitor.snapshots.borrow().clone().unwrap_or_default()
    }

    /// Other members of the groups that were given away are Unhealthy before the answer, so that the kubelet gives them to
    /// nobody meanwhile.
    async fn report_peers(&self, plan: &Plan<'_>, snapshot: &NodeSnapshot) {
        let given: Vec<&DeviceState> =
            plan.containers.iter().flat_map(|container| container.views.iter().copied()).collect();
        let owners = self.owners.current();
        let peers: Vec<String> = snapshot
            .devices
            .iter()
            // One that a pod owns stays Healthy, and other policies do not ask whose a group is.
            .filter(|peer| {
                !owners.counts_as_requested(peer) && self.publisher.busy_of(peer) == Busy::Attributed
            })
            .filter(|peer| !given.iter().any(|view| view.device.id == peer.device.id))
            .filter(|peer| given.iter().any(|view| view.device.group == peer.device.group))
            .filter(|peer| peer.device.group.is_some() && peer.resource == self.resource)
            .map(|peer| peer.device.id.to_string())
            .collect();
        if !peers.is_empty() {
            self.broadcast.sent(LIST_FIRST, |list| peers.iter().all(|id| is_unhealthy(list, id))).await;
        }
    }

    async fn refuse(
        &self,
        taken: Taken,
        group: GroupId,
        view: &DeviceState,
        more: &'static str,
    ) -> AllocateError {
        match taken {
            Taken::Held => self.refuse_held(group, view, more).await,
            Taken::GivenInstead(pod) => {
                AllocateError::Substituted { device: view.device.id, pod, no_substitute: more }
            }
        }
    }

    /// Waits, as long as for the list, until the monitor has looked for the holders of what it was told by then. The list
    /// does not wait for that look, which takes its time where there are many processes.
    async fn looked(&self, told: u64) {
        let mut snapshots = self.monitor.snapshots.clone();
        let reports_seen = |snapshot: &Option<Arc<NodeSnapshot>>| {
            snapshot.as_ref().is_some_and(|known| known.reports_seen >= told)
        };
        let _ = timeout(LIST_FIRST, snapshots.wait_for(reports_seen)).await;
    }

    async fn refuse_held(&self, group: GroupId, view: &DeviceState, more: &'static str) -> AllocateError {
        self.owners.poll_soon();
        // The owner of the failed pod makes the next one at once; it must find a list that says so already.
        // With `advertise` it stays Healthy for ever.
        let id = view.device.id.to_string();
        let checkpoint = checkpoint::read(&self.kubelet_dir);
        let owners = self.owners.current();
        let told = self.monitor.reports_sent();
        let listed = async {
            if !allocation::lost_by_the_kubelet(&self.resource, view, &owners, checkpoint.as_deref()) {
                self.publisher.refused(group, told);
                if self.publisher.busy_of(view) != Busy::Advertise {
                    self.broadcast.sent(LIST_FIRST, |list| is_unhealthy(list, &id)).await;
                }
            }
        };
        tokio::join!(listed, self.looked(told));
        let now = self.snapshot();
        let holders = now.of(view.device.id).and_then(|view| Some(view.group.as_ref()?.holders.clone()));
        AllocateError::held(view, &holders.unwrap_or_default(), more)
    }
}

fn is_unhealthy(list: &DeviceList, id: &str) -> bool {
    list.iter().any(|device| device.id == id && device.health == kubelet_api::UNHEALTHY)
}
