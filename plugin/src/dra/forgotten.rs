//! Ends claims that the kubelet has forgotten, so that their devices can be prepared for other claims.
//!
//! The kubelet has a claim unprepared before its devices can be allocated again, with two exceptions. If a pod is deleted by force, the
//! devices can be allocated to another claim while the kubelet still ends the pod's containers. If the kubelet has lost its record of
//! claims (`dra_manager_state`), it never has the claim unprepared, and each later claim for the devices would be refused until the next
//! boot. Only a claim of the second kind may end here: a container of the first kind could still open the device.

use crate::dra::driver::{CallError, Driver};
use crate::dra::kubelet_claims::has_claim;
use kubelet_api::dra::Claim;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use vfio_plugin_policy::dra::claim::{ClaimError, allocation};
use vfio_plugin_policy::dra::prepared::PreparedClaim;
use vfio_probe::DeviceId;

/// How long a claim is requested that the kubelet may have forgotten.
const REQUEST: Duration = Duration::from_secs(5);

impl Driver {
    /// Ends the other claims that have one of these devices, if the kubelet has forgotten them.
    pub(super) async fn end_forgotten(&self, uid: &str, devices: &BTreeSet<DeviceId>, deadline: Instant) {
        for &device in devices {
            let group = self.checks().snapshot().get(device).and_then(|state| state.device.group);
            let Some((uid, PreparedClaim { namespace, name, .. })) =
                self.claims.other_with(uid, device, group)
            else {
                continue;
            };
            // A claim that is prepared waits for no other one.
            let Ok(_call) = timeout_at(deadline, self.calls.begin(&uid)).await else { return };
            let Some(prepared) = self.claims.get(&uid) else { continue };
            let claim = Claim { namespace, uid, name };
            if !self.is_forgotten(&claim, &prepared, deadline).await {
                continue;
            }
            match self.end(&claim, &prepared, deadline).await {
                Ok(()) => tracing::warn!(claim = prepared.full_name(), %device,
                    "ended a claim that is not allocated any more and that the kubelet has forgotten"),
                Err(error) => {
                    tracing::warn!(claim = prepared.full_name(), %error, "cannot end a claim that the kubelet has forgotten");
                }
            }
        }
    }

    /// Returns whether the kubelet will never have a claim unprepared. False if that is not known.
    async fn is_forgotten(&self, claim: &Claim, prepared: &PreparedClaim, deadline: Instant) -> bool {
        let is_deallocated = self.is_deallocated(claim, prepared, deadline).await;
        let is_recorded = || has_claim(&self.kubelet_record, &claim.uid);
        self.deallocated.is_forgotten(&claim.uid, is_deallocated, is_recorded, Instant::now())
    }

    /// Returns whether the API server has none of a claim's devices allocated to it. None if that is not known.
    async fn is_deallocated(
        &self,
        claim: &Claim,
        prepared: &PreparedClaim,
        deadline: Instant,
    ) -> Option<bool> {
        match self.get(claim, deadline.min(Instant::now() + REQUEST)).await {
            Ok(object) => match allocation(&object, &claim.uid, self.name.as_str(), &self.node) {
                Ok(now) => {
                    let is_other = |id| now.results.iter().all(|result| id != Some(result.device));
                    Some(prepared.own_devices().all(|device| is_other(device.id())))
                }
                Err(ClaimError::OtherUid(_) | ClaimError::NotAllocated | ClaimError::NoneOfOurs) => {
                    Some(true)
                }
                Err(_) => None,
            },
            Err(CallError::NoClaim) => Some(true),
            Err(_) => None,
        }
    }
}
