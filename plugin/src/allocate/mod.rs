//! Answers the kubelet's Allocate: grants devices only if their groups can be opened now.
//!
//! The steps of a call: plan the request (policy `allocation`), check [`stale_answers`], reserve its groups, probe all of them at once ([`verify`]),
//! substitute or refuse held devices ([`substitute`], [`refusal`]), wake sleeping devices ([`wake`]), check the drivers again,
//! record the assignment, and build the response ([`device_specs`], [`response`]).

pub(crate) mod allocator;
mod device_specs;
mod refusal;
mod response;
mod stale_answers;
mod substitute;
mod verify;
mod wake;

use crate::allocate::allocator::Allocator;
use crate::node::probe;
use kubelet_api::v1beta1::{AllocateRequest, AllocateResponse};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::{AllocateError, Plan, PlannedContainer};
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate};

/// The deadline of a call. The kubelet sets none (`context.TODO()`).
const DEADLINE: Duration = Duration::from_secs(2);

impl Allocator {
    /// Answers a request within 2 s. Does not call the kubelet meanwhile.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for ids that are not devices of this resource, FAILED_PRECONDITION for devices that cannot be allocated.
    /// The message names the device and says why.
    pub(crate) async fn allocate(&self, request: &AllocateRequest) -> Result<AllocateResponse, Status> {
        tracing::debug!(resource = %self.resource, ?request, "Allocate called");
        let outcome = self.grant(request).await;
        match &outcome {
            Ok(_) => tracing::debug!(resource = %self.resource, ?request, "Allocate granted"),
            Err(error) => tracing::warn!(resource = %self.resource, %error, "Allocate refused"),
        }
        outcome.map_err(|error| response::status(&error))
    }

    async fn grant(&self, request: &AllocateRequest) -> Result<AllocateResponse, AllocateError> {
        let mut reservation = self.reservations.begin();
        let deadline = Instant::now() + DEADLINE;
        let (snapshot, assignments) = (self.snapshot(), self.assignments.current());
        let containers = request.container_requests.iter().map(|container| container.devices_ids.as_slice());
        let mut plan = allocation::plan(&self.resource, containers, &snapshot, &assignments)?;
        for device in plan.devices() {
            self.check_stale_answers(device)?;
        }
        for (group, device) in plan.containers.iter().flat_map(PlannedContainer::groups) {
            if !reservation.reserve(group) {
                return Err(AllocateError::GroupReserved { device: device.device.id, group });
            }
        }
        // All probes begin before the first result is awaited: one that hangs until the deadline delays no other.
        let mut probes = Vec::new();
        for (index, container) in plan.containers.iter().enumerate() {
            for (group, device) in container.groups() {
                probes.push((index, group, device, probe::begin(&self.monitor, group, deadline)));
            }
        }
        for (index, group, device, probe) in probes {
            let Some(obstacle) = self.verify(device, probe, &assignments, deadline).await? else { continue };
            let substituted = match device.terms.busy_allocate.unwrap_or(self.busy_allocate) {
                BusyAllocate::Reject => Err(None),
                BusyAllocate::Substitute => {
                    let substituted =
                        self.substitute(&mut plan, index, group, &snapshot, &mut reservation, deadline);
                    substituted.await.map_err(Some)
                }
            };
            if let Err(no_substitute) = substituted {
                return Err(self.refuse(obstacle, group, device, no_substitute).await);
            }
        }
        self.check_sleeping(&plan, deadline).await?;
        for device in plan.devices() {
            self.check_bound(device)?;
        }
        for container in &plan.containers {
            let (ids, device_ids) = (container.ids.clone(), container.device_ids());
            self.assignments.record_allocate(&self.resource, ids, device_ids, container.terms().pinned());
        }
        self.report_peers(&plan, &snapshot).await;
        Ok(response::response(&self.resource, &plan, self.container_devices(&plan)))
    }

    /// Waits until the group peers of allocated devices are reported as Unhealthy, so that the kubelet does not allocate them
    /// before it has the response.
    async fn report_peers(&self, plan: &Plan<'_>, snapshot: &NodeSnapshot) {
        let assignments = self.assignments.current();
        let peers: Vec<String> = snapshot
            .devices
            .iter()
            // An assigned peer stays Healthy. Other policies report no peers.
            .filter(|peer| {
                !assignments.counts_as_requested(peer) && self.publisher.busy_of(peer) == Busy::Attributed
            })
            .filter(|peer| !plan.devices().any(|device| device.device.id == peer.device.id))
            .filter(|peer| plan.devices().any(|device| device.device.group == peer.device.group))
            .filter(|peer| peer.device.group.is_some() && peer.resource == self.resource)
            .map(|peer| peer.device.id.to_string())
            .collect();
        if !peers.is_empty() {
            self.wait_until_unhealthy(&peers).await;
        }
    }
}
