//! Ends claims that the kubelet has forgotten, so that their devices can be prepared for other claims.
//!
//! The kubelet has a claim unprepared before its devices can be allocated again, with two exceptions. If a pod is deleted by force, the
//! API server gives the devices to another claim while the kubelet still ends the pod's containers. If the kubelet has lost its record of
//! claims (`dra_manager_state`), it never has the claim unprepared, and each later claim for the devices would be refused until the next
//! boot. Only a claim of the second kind may end here: a container of the first kind could still open the device.

use crate::dra::driver::{CallError, Driver};
use crate::dra::kubelet_claims::has_claim;
use kubelet_api::dra::Claim;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use vfio_plugin_policy::dra::claim::{ClaimError, allocation};
use vfio_plugin_policy::dra::prepared::PreparedClaim;
use vfio_probe::DeviceId;

/// How long a claim is requested that the kubelet may have forgotten.
const REQUEST: Duration = Duration::from_secs(5);
/// How long the kubelet may take to end the containers of a claim that is not allocated any more, if its record cannot be read. More
/// than pods have to end: mostly 30 s, 3 min for VMs of KubeVirt.
const PATIENCE: Duration = Duration::from_secs(600);

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

/// The prepared claims that the API server does not have allocated and of which the kubelet's record is not known, each with the time
/// at which that was first seen.
#[derive(Debug, Default)]
pub(super) struct Deallocated(Mutex<BTreeMap<String, Instant>>);

impl Deallocated {
    /// Returns whether the kubelet has forgotten a claim: it is not allocated and not in the kubelet's record. If that cannot be read,
    /// whether the kubelet must have ended the claim's containers since. None stands for what is not known.
    fn is_forgotten(
        &self,
        uid: &str,
        is_deallocated: Option<bool>,
        is_recorded: impl FnOnce() -> Option<bool>,
        now: Instant,
    ) -> bool {
        match is_deallocated {
            Some(true) => {}
            Some(false) => {
                self.forget(uid);
                return false;
            }
            None => return false,
        }
        match is_recorded() {
            Some(true) => {
                self.forget(uid);
                false
            }
            Some(false) => true,
            None => {
                let since = *self.0.lock().entry(uid.to_owned()).or_insert(now);
                now.saturating_duration_since(since) >= PATIENCE
            }
        }
    }

    /// Notes that a claim is allocated, is in the kubelet's record, or is not prepared any more.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_without_allocation_is_forgotten_if_the_kubelet_has_no_record_of_it() {
        let (deallocated, now) = (Deallocated::default(), Instant::now());
        let is_forgotten = |allocated: Option<bool>, recorded| {
            deallocated.is_forgotten("a", allocated.map(|is| !is), || recorded, now)
        };
        assert!(is_forgotten(Some(false), Some(false)));
        for (allocated, recorded) in
            [(Some(false), Some(true)), (Some(true), Some(false)), (None, Some(false)), (Some(false), None)]
        {
            assert!(!is_forgotten(allocated, recorded), "{allocated:?} {recorded:?}");
        }
    }

    #[test]
    fn claim_is_forgotten_after_ten_minutes_without_a_record() {
        let (deallocated, start) = (Deallocated::default(), Instant::now());
        let after = |uid: &str, seconds| {
            deallocated.is_forgotten(uid, Some(true), || None, start + Duration::from_secs(seconds))
        };
        assert!(!after("a", 0));
        assert!(!after("a", 599));
        assert!(!after("b", 600), "each claim has its own time");
        // An API server that does not answer says nothing of the claim.
        assert!(!deallocated.is_forgotten("a", None, || None, start));
        assert!(after("a", 600));
        // It was in the kubelet's record, so the kubelet will have it unprepared.
        assert!(!deallocated.is_forgotten("a", Some(true), || Some(true), start));
        assert!(!after("a", 600));
        assert!(after("a", 1200));
        // It was allocated again.
        assert!(!deallocated.is_forgotten("a", Some(false), || None, start));
        assert!(!after("a", 1200));
        // It was prepared again.
        deallocated.forget("b");
        assert!(!after("b", 1200));
    }
}
