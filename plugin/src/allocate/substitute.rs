//! Substitutes free devices for held ones (`--busy-allocate substitute`).

use crate::allocate::allocator::Allocator;
use crate::kubelet::checkpoint;
use crate::kubelet::kept::OfferedResources;
use crate::node::probe;
use crate::reservations::Reservation;
use std::collections::BTreeSet;
use tokio::time::Instant;
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::{NoSubstitute, Plan, ProbeVerdict, substitute};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_probe::GroupId;

impl Allocator {
    /// Replaces the devices of a held group in one container of the plan with free devices. `index` is the container's.
    ///
    /// # Errors
    /// Why there is no substitute.
    pub(super) async fn substitute<'a>(
        &self,
        plan: &mut Plan<'a>,
        index: usize,
        group: GroupId,
        snapshot: &'a NodeSnapshot,
        reservation: &mut Reservation,
        deadline: Instant,
    ) -> Result<(), NoSubstitute> {
        // After an earlier substitution, the ids in the checkpoint are not the devices that containers have. The responses in
        // it name those devices.
        let entries = checkpoint::read(&self.kubelet_dir, &OfferedResources::default())
            .map_err(|_| NoSubstitute::CheckpointUnreadable)?;
        let allocated: BTreeSet<String> = entries.into_iter().flat_map(|entry| entry.response_ids).collect();
        let in_group = |device: &DeviceState| device.device.group == Some(group);
        let needed = plan
            .containers
            .get(index)
            .map_or(0, |container| container.devices.iter().filter(|device| in_group(device)).count());
        let candidates = self.candidates(plan, snapshot, &allocated);
        let mut substitutes = Vec::new();
        for candidate in candidates {
            if substitutes.len() == needed {
                break;
            }
            if !self.can_substitute(candidate, reservation, deadline).await {
                continue;
            }
            // Another Allocate may have allocated it and ended while this one waited for the probe.
            let again = self.candidates(plan, snapshot, &allocated);
            if again.iter().any(|device| device.device.id == candidate.device.id) {
                substitutes.push(candidate);
            }
        }
        if substitutes.len() < needed {
            return Err(NoSubstitute::NoneFree);
        }
        if let Some(container) = plan.containers.get_mut(index) {
            for slot in container.devices.iter_mut().filter(|device| in_group(device)) {
                let Some(substitute) = substitutes.pop() else { break };
                tracing::warn!(resource = %self.resource, held = %slot.device.id, substitute = %substitute.device.id,
                    "substituted a held device; the kubelet's checkpoint names the held one");
                *slot = substitute;
            }
        }
        Ok(())
    }

    fn candidates<'a>(
        &self,
        plan: &Plan<'_>,
        snapshot: &'a NodeSnapshot,
        allocated: &BTreeSet<String>,
    ) -> Vec<&'a DeviceState> {
        let assignments = self.assignments.current();
        let ids = substitute::candidates(&self.resource, plan, snapshot, &assignments, allocated);
        ids.into_iter().filter_map(|id| snapshot.get(id)).collect()
    }

    /// Reserves and verifies a candidate, by the same rules as a requested device.
    async fn can_substitute(
        &self,
        candidate: &DeviceState,
        reservation: &mut Reservation,
        deadline: Instant,
    ) -> bool {
        let Some(group) = candidate.device.group else { return false };
        if self.check_stale_answers(candidate).is_err() || !reservation.reserve(group) {
            return false;
        }
        let probed = probe::open(&self.monitor, group, deadline).await;
        let looks_held = || self.checks().looks_held(candidate, group);
        allocation::judge(probed, looks_held, false) == ProbeVerdict::Grant
            && self.checks().check_bound(candidate).is_ok()
            && self.checks().not_viable(candidate).is_none()
    }
}
