//! Refuses a device that cannot be allocated: reports it as Unhealthy first, and names its holders.

use crate::allocate::allocator::Allocator;
use crate::allocate::verify::Obstacle;
use crate::kubelet::checkpoint;
use crate::kubelet::kept::OfferedResources;
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::{AllocateError, NoSubstitute};
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::pools::terms::Busy;
use vfio_probe::GroupId;

impl Allocator {
    /// Returns the refusal of a device. `no_substitute` says why no other device is allocated instead; none if that was not
    /// tried.
    pub(super) async fn refuse(
        &self,
        obstacle: Obstacle,
        group: GroupId,
        device: &DeviceState,
        no_substitute: Option<NoSubstitute>,
    ) -> AllocateError {
        match obstacle {
            Obstacle::Held => self.refuse_held(group, device, no_substitute).await,
            Obstacle::IsSubstitute(pod) => {
                AllocateError::Substituted { device: device.device.id, pod, no_substitute }
            }
        }
    }

    /// Reports a held device as Unhealthy, waits for the list and for its holders, and returns the refusal.
    ///
    /// The controller of the failed pod creates the next pod at once. It must find a list without this device.
    async fn refuse_held(
        &self,
        group: GroupId,
        device: &DeviceState,
        no_substitute: Option<NoSubstitute>,
    ) -> AllocateError {
        self.assignments.poll_soon();
        let id = device.device.id;
        let checkpoint = checkpoint::read(&self.kubelet_dir, &OfferedResources::default()).ok();
        let assignments = self.assignments.current();
        let reports = self.monitor.reports_sent();
        let reported = async {
            if !allocation::lost_by_the_kubelet(&self.resource, device, &assignments, checkpoint.as_deref()) {
                self.publisher.refused(group, reports);
                // With the policy `advertise` the device stays Healthy.
                if self.publisher.busy_of(device) != Busy::Advertise {
                    self.wait_until_unhealthy(&[id.to_string()]).await;
                }
            }
        };
        let checks = self.checks();
        tokio::join!(reported, checks.wait_for_holders(id, reports));
        let snapshot = self.snapshot();
        let holders = snapshot.get(id).and_then(|device| Some(device.group.as_ref()?.holders.as_slice()));
        AllocateError::held(device, holders.unwrap_or_default(), no_substitute)
    }
}
