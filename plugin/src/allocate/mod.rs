//! Answers the kubelet's Allocate: grants devices only if their groups can be opened now.
//!
//! The steps of a call: plan the request (policy `allocation`), check [`stale_answers`], reserve its groups, probe all of them at once ([`verify`]),
//! substitute or refuse held devices ([`substitute`], [`refusal`]), wake sleeping devices ([`wake`]), check the drivers of
//! devices and group peers again, record the assignment, and build the response ([`device_specs`], [`response`]). Each step works on the devices of the request
//! and on their groups, and on no other device. [`preferred`] answers GetPreferredAllocation.

pub(crate) mod allocator;
pub(crate) mod device_specs;
pub(crate) mod gate;
pub(crate) mod preferred;
mod refusal;
mod response;
mod stale_answers;
mod substitute;
pub(crate) mod verify;
pub(crate) mod wake;

use crate::allocate::allocator::Allocator;
use crate::allocate::gate::AnsweredElsewhere;
use crate::metrics::counters::AllocateResult;
use crate::node::probe;
use kubelet_api::v1beta1::{AllocateRequest, AllocateResponse};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::request::Request;
use vfio_plugin_policy::allocation::{AllocateError, Plan, PlannedContainer};
use vfio_plugin_policy::assignments::record::Assignment;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate};
use vfio_probe::{DeviceId, GroupId};

/// The deadline of a call. The kubelet sets none (`context.TODO()`).
const DEADLINE: Duration = Duration::from_secs(2);
/// A held group is probed again for this long.
const CLOSING: Duration = Duration::from_secs(1);

impl Allocator {
    /// Answers a request within 2 s, after a hand-over that is under way. Does not call the kubelet meanwhile.
    ///
    /// # Errors
    /// UNAVAILABLE if another process has taken over, INVALID_ARGUMENT for ids that are not devices of this resource, FAILED_PRECONDITION for devices that cannot be allocated.
    /// The message names the device and says why.
    pub(crate) async fn allocate(&self, request: &AllocateRequest) -> Result<AllocateResponse, Status> {
        tracing::debug!(resource = %self.resource, ?request, "Allocate called");
        let _answering = match self.gate.try_enter() {
            Some(entered) => entered,
            None => {
                // An Allocate that waits counts as one in flight: the kubelet must not be polled meanwhile.
                let _in_flight = self.reservations.begin();
                self.gate.enter().await
            }
        }
        .map_err(|AnsweredElsewhere| {
            Status::unavailable("another process of the plugin answers Allocates")
        })?;
        let began = self.metrics.as_ref().map(|metrics| (metrics, Instant::now()));
        let outcome = self.grant(request).await;
        if let Some((metrics, began)) = began {
            let result = match &outcome {
                Ok(_) => AllocateResult::Granted,
                Err(error) if error.is_invalid_request() => AllocateResult::Failed,
                Err(_) => AllocateResult::Refused,
            };
            metrics.allocated(result, began.into_std());
        }
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
        let request = Request::parse(&self.resource, containers)?;
        let mut plan = allocation::plan(&self.resource, &request, &snapshot, &assignments)?;
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
            let limits = (Instant::now() + CLOSING, deadline);
            let obstacle = self.checks().verify(device, probe, &assignments, limits).await?;
            let Some(obstacle) = obstacle else { continue };
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
        let devices: Vec<&DeviceState> = plan.devices().collect();
        if let Some(device) = wake::lost_device(&self.monitor, &devices, deadline).await {
            self.wait_until_unhealthy(&[device.to_string()]).await;
            return Err(AllocateError::Lost { device });
        }
        for device in &devices {
            self.checks().check_bound(device)?;
        }
        for (_, device) in plan.containers.iter().flat_map(PlannedContainer::groups) {
            self.check_viable(device).await?;
        }
        let now = std::time::Instant::now();
        let allocates = plan.containers.iter().map(|container| {
            let (ids, device_ids) = (container.ids.clone(), container.device_ids());
            Assignment::allocated(&self.resource, ids, device_ids, container.terms().pinned(), now)
        });
        self.assignments.record_allocates(allocates.collect());
        self.report_peers(&plan, &snapshot).await;
        Ok(response::response(&self.resource, &plan, self.container_devices(&plan)))
    }

    /// Checks that VFIO can use a device's group now: the monitor may not have noticed yet that a peer was bound to a host driver.
    ///
    /// # Errors
    /// The group is not viable. What cannot be read is no error.
    async fn check_viable(&self, device: &DeviceState) -> Result<(), AllocateError> {
        let Some(error) = self.checks().not_viable(device) else { return Ok(()) };
        // The kubelet does not ask for the device again once it has the list.
        self.monitor.reread_records();
        self.wait_until_unhealthy(&[device.device.id.to_string()]).await;
        Err(error)
    }

    /// Waits until the group peers of allocated devices are reported as Unhealthy, so that the kubelet does not allocate them
    /// before it has the response.
    async fn report_peers(&self, plan: &Plan<'_>, snapshot: &NodeSnapshot) {
        let allocated: BTreeSet<DeviceId> = plan.devices().map(|device| device.device.id).collect();
        let groups: BTreeSet<GroupId> = plan.devices().filter_map(|device| device.device.group).collect();
        let assignments = self.assignments.current();
        let peers = groups.into_iter().flat_map(|group| snapshot.devices.in_group(group));
        let peers: Vec<String> = peers
            .filter(|peer| !allocated.contains(&peer.device.id) && peer.resource == self.resource)
            // An assigned peer stays Healthy. Other policies report no peers.
            .filter(|peer| {
                !assignments.counts_as_requested(peer) && self.publisher.busy_of(peer) == Busy::Attributed
            })
            .map(|peer| peer.device.id.to_string())
            .collect();
        if !peers.is_empty() {
            self.wait_until_unhealthy(&peers).await;
        }
    }
}
