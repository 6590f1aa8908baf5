//! Answers the kubelet's GetPreferredAllocation: chooses after a new peek at held devices.

use crate::allocate::allocator::Allocator;
use crate::allocate::response;
use kubelet_api::v1beta1::{
    ContainerPreferredAllocationResponse, PreferredAllocationRequest, PreferredAllocationResponse,
};
use std::sync::Arc;
use tonic::Status;
use vfio_plugin_policy::allocation::preferred;
use vfio_plugin_policy::allocation::request;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::kubelet_id::KubeletDeviceId;
use vfio_probe::{DeviceId, Occupancy};

impl Allocator {
    /// Answers a request. Ids that are none of this plugin's are left out.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a request larger than any kubelet's. Any other request has a response, because an error would fail the
    /// pod's admission.
    pub(crate) fn preferred(
        &self,
        request: &PreferredAllocationRequest,
    ) -> Result<PreferredAllocationResponse, Status> {
        tracing::debug!(resource = %self.resource, ?request, "GetPreferredAllocation called");
        let containers = &request.container_requests;
        let sizes = containers.iter().map(|container| {
            container.available_device_i_ds.len() + container.must_include_device_i_ds.len()
        });
        request::check_size(sizes).map_err(|error| response::status(&error))?;
        let parse = |ids: &[String]| ids.iter().filter_map(|id| id.parse().ok()).collect();
        let available: Vec<Vec<KubeletDeviceId>> =
            containers.iter().map(|container| parse(&container.available_device_i_ds)).collect();
        let snapshot = self.snapshot_with_new_peeks(available.iter().flatten());
        let assignments = self.assignments.current();
        let responses = containers.iter().zip(available).map(|(container, available)| {
            let must_include = parse(&container.must_include_device_i_ds);
            let size = usize::try_from(container.allocation_size).unwrap_or(0);
            let chosen = preferred::choose(&snapshot, &assignments, &available, &must_include, size);
            let device_i_ds = chosen.iter().map(KubeletDeviceId::to_string).collect();
            ContainerPreferredAllocationResponse { device_i_ds }
        });
        Ok(PreferredAllocationResponse { container_responses: responses.collect() })
    }

    /// Returns the latest snapshot, with a new peek at those of the devices that are held in it. Devices that look free now are
    /// free in the result.
    ///
    /// The kubelet asks about held devices only if it has lost its checkpoint, or has just seen the end of a VM.
    fn snapshot_with_new_peeks<'r>(
        &self,
        ids: impl Iterator<Item = &'r KubeletDeviceId>,
    ) -> Arc<NodeSnapshot> {
        let mut snapshot = self.snapshot();
        if !snapshot.devices.iter().any(DeviceState::is_held) {
            return snapshot;
        }
        let held = ids.filter_map(|id| snapshot.get(id.device()?)).filter(|device| device.is_held());
        let mut held: Vec<DeviceId> = held.map(|device| device.device.id).collect();
        if !held.is_empty() {
            held.sort_unstable();
            let devices = Arc::make_mut(&mut snapshot).devices.iter_mut();
            let is_requested = |device: &DeviceState| held.binary_search(&device.device.id).is_ok();
            for device in devices.filter(|device| is_requested(device)) {
                let looks_held =
                    device.device.group.is_none_or(|group| self.checks().looks_held(device, group));
                if let Some(group) = device.group.as_mut().filter(|_| !looks_held) {
                    group.occupancy = Occupancy::Free;
                    group.since = std::time::Instant::now();
                }
            }
        }
        snapshot
    }
}
