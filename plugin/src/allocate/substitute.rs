//! Free devices in the place of a held one.

use crate::allocate::Allocator;
use crate::kubelet::checkpoint;
use crate::node::probe;
use crate::reservations::Reservation;
use tokio::time::Instant;
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::{Plan, ProbeVerdict, substitute};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_probe::GroupId;

impl Allocator {
    /// Puts free devices in the place of a held group's, or says why not.
    pub(super) async fn substitute<'a>(
        &self,
        plan: &mut Plan<'a>,
        place: usize,
        group: GroupId,
        snapshot: &'a NodeSnapshot,
        reservation: &mut Reservation,
        deadline: Instant,
    ) -> Result<(), &'static str> {
        // The kubelet's books name devices that an earlier substitution has left free; only what containers were told is
        // what they have.
        let entries = checkpoint::read(&self.kubelet_dir)
            .ok_or("; no substitute: the kubelet's checkpoint cannot be read")?;
        let given = entries.into_iter().flat_map(|entry| entry.response_ids).collect();
        let owners = self.owners.current();
        let candidates = substitute::candidates(&self.resource, plan, snapshot, &owners, &given);
        let mut free = Vec::new();
        let held = |known: &DeviceState| known.device.group == Some(group);
        let needed = plan
            .containers
            .get(place)
            .map_or(0, |container| container.views.iter().filter(|view| held(view)).count());
        for candidate in candidates.into_iter().filter_map(|id| snapshot.of(id)) {
            let Some(id) = candidate.device.group else { continue };
            if free.len() == needed {
                break;
            }
            if !reservation.take(id) {
                continue;
            }
            // By the same rule as any device.
            let answer = probe::open(&self.monitor, id, deadline).await;
            let held = || self.looks_held(candidate, id);
            if allocation::judge(answer, held, false) != ProbeVerdict::Grant
                || self.check_bound(candidate).is_err()
            {
                continue;
            }
            // Another Allocate may have given it away, and ended, while this one waited.
            let again =
                substitute::candidates(&self.resource, plan, snapshot, &self.owners.current(), &given);
            if again.contains(&candidate.device.id) {
                free.push(candidate);
            }
        }
        if free.len() < needed {
            return Err("; no substitute: no other device is free");
        }
        if let Some(container) = plan.containers.get_mut(place) {
            for slot in container.views.iter_mut().filter(|view| held(view)) {
                let Some(instead) = free.pop() else { break };
                tracing::warn!(resource = %self.resource, held = %slot.device.id, given = %instead.device.id,
                    "substituted: the kubelet's books name the held one");
                *slot = instead;
            }
        }
        Ok(())
    }
}
