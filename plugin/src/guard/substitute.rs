//! Free devices in the place of a held one.

use super::Guard;
use crate::allocate::{self, Plan, Verdict};
use crate::claims::Claim;
use crate::opening;
use crate::owners::checkpoint;
use crate::snapshot::{DeviceView, Snapshot};
use tokio::time::Instant;
use vfio_probe::GroupId;

impl Guard {
    /// Puts free devices in the place of a held group's, or says why not.
    pub(super) async fn substitute<'a>(
        &self,
        plan: &mut Plan<'a>,
        place: usize,
        group: GroupId,
        snapshot: &'a Snapshot,
        claim: &mut Claim,
        deadline: Instant,
    ) -> Result<(), &'static str> {
        // The kubelet's books name devices that an earlier substitution has left free; only what containers were told is
        // what they have.
        let entries = checkpoint::read(&self.kubelet_dir)
            .ok_or("; no substitute: the kubelet's checkpoint cannot be read")?;
        let given = entries.into_iter().flat_map(|entry| entry.told).collect();
        let owners = self.owners.current();
        let candidates = allocate::substitutes(&self.resource, plan, snapshot, &owners, &given);
        let mut free = Vec::new();
        let held = |known: &DeviceView| known.device.group == Some(group);
        let needed =
            plan.containers.get(place).map_or(0, |wish| wish.views.iter().filter(|view| held(view)).count());
        for candidate in candidates.into_iter().filter_map(|id| snapshot.of(id)) {
            let Some(id) = candidate.device.group else { continue };
            if free.len() == needed {
                break;
            }
            if !claim.take(id) {
                continue;
            }
            // By the same rule as any device.
            let answer = opening::open(&self.monitoring, id, deadline).await;
            let held = || self.looks_held(candidate, id);
            if allocate::judge(answer, held, false) != Verdict::Grant || self.check_bound(candidate).is_err()
            {
                continue;
            }
            // Another Allocate may have given it away, and ended, while this one waited.
            let again = allocate::substitutes(&self.resource, plan, snapshot, &self.owners.current(), &given);
            if again.contains(&candidate.device.id) {
                free.push(candidate);
            }
        }
        if free.len() < needed {
            return Err("; no substitute: no other device is free");
        }
        if let Some(wish) = plan.containers.get_mut(place) {
            for slot in wish.views.iter_mut().filter(|view| held(view)) {
                let Some(instead) = free.pop() else { break };
                tracing::warn!(resource = %self.resource, held = %slot.device.id, given = %instead.device.id,
                    "substituted: the kubelet's books name the held one");
                *slot = instead;
            }
        }
        Ok(())
    }
}
