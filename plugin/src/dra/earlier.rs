//! Waits until no earlier claim has the devices of a claim that is to be prepared.
//!
//! The kubelet has a claim unprepared before its devices can be allocated again, with two exceptions. If a pod is deleted by force, the
//! devices can be allocated to another claim while the kubelet still ends the pod's containers. The other claim waits for that here,
//! because a refusal costs its pod a minute or more. If the kubelet has lost its record of claims (`dra_manager_state`), it never has the
//! claim unprepared, and each later claim for the devices would be refused until the next boot. Only a claim of the second kind may be
//! ended here: a container of the first kind could still open the device.

use crate::dra::call_error::CallError;
use crate::dra::deallocated::Earlier;
use crate::dra::driver::{CallLock, Driver, full_name};
use crate::dra::kubelet_claims::has_claim;
use kubelet_api::dra::Claim;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use vfio_plugin_policy::dra::claim::{ClaimError, allocation};
use vfio_plugin_policy::dra::prepared::PreparedClaim;
use vfio_probe::DeviceId;

/// How long the API server and the kubelet's record may take to say what they know of an earlier claim.
const REQUEST: Duration = Duration::from_secs(5);
/// The time before the deadline that is left to judge an earlier claim again.
const AGAIN: Duration = Duration::from_secs(2);

impl Driver {
    /// Waits until no other claim has one of these devices. Ends a claim that the kubelet has forgotten, and does not wait for one that is
    /// still allocated. Returns whether there was another claim.
    ///
    /// Unprepare can end the other claim meanwhile: its lock is not held during the wait, and no group is reserved.
    ///
    /// # Errors
    /// The kubelet has not had the other claim unprepared in time, or has ended the call.
    pub(super) async fn wait_for_earlier(
        &self,
        claim: &Claim,
        devices: &BTreeSet<DeviceId>,
        call: &CancellationToken,
        deadline: Instant,
    ) -> Result<bool, CallError> {
        let until = deadline.checked_sub(AGAIN).unwrap_or(deadline);
        let mut was_there = false;
        'devices: for &device in devices {
            let mut latest = Earlier::Unknown;
            while let Some((uid, PreparedClaim { namespace, name, .. })) = self.earlier(&claim.uid, device) {
                was_there = true;
                let other = Claim { namespace, uid, name };
                let refusal = |latest| refusal(latest, device, &other);
                // A claim that is prepared waits for no other one.
                let begun = timeout_at(deadline, self.calls.begin(&other.uid));
                let Ok(lock) = call.run_until_cancelled(begun).await.ok_or(CallError::Cancelled)? else {
                    return Err(refusal(latest));
                };
                // It may have been unprepared during the wait for the lock.
                let Some(prepared) = self.claims.get(&other.uid) else { continue };
                latest = self.judge(&other, &prepared, deadline).await;
                match latest {
                    Earlier::Forgotten if self.end_forgotten(&lock, &other, &prepared, deadline).await => {
                        continue;
                    }
                    // The claim is refused, after the checks that need no other claim.
                    Earlier::Forgotten | Earlier::Allocated => break 'devices,
                    Earlier::Ending { .. } | Earlier::Unknown if Instant::now() >= until => {
                        return Err(refusal(latest));
                    }
                    Earlier::Ending { .. } | Earlier::Unknown => drop(lock),
                }
                tracing::info!(claim = full_name(claim), earlier = full_name(&other), %device,
                    "waiting until the kubelet has an earlier claim unprepared");
                // If it is still there by then, it is judged again.
                let removed = timeout_at(until, self.claims.wait_until_removed(&other.uid));
                let _ = call.run_until_cancelled(removed).await.ok_or(CallError::Cancelled)?;
            }
        }
        Ok(was_there)
    }

    /// Ends a claim that the kubelet has forgotten. Returns false if it cannot be ended now.
    async fn end_forgotten(
        &self,
        lock: &CallLock,
        claim: &Claim,
        prepared: &PreparedClaim,
        deadline: Instant,
    ) -> bool {
        match self.end(lock, claim, prepared, deadline).await {
            Ok(()) => {
                tracing::warn!(
                    claim = full_name(claim),
                    "ended a claim that is not allocated any more and that the kubelet has forgotten"
                );
                true
            }
            Err(error) => {
                tracing::warn!(claim = full_name(claim), %error, "cannot end a claim that the kubelet has forgotten");
                false
            }
        }
    }

    /// Returns another claim that has a device or its group, with its uid.
    fn earlier(&self, uid: &str, device: DeviceId) -> Option<(String, PreparedClaim)> {
        let group = self.checks().snapshot().get(device).and_then(|state| state.device.group);
        self.claims.other_with(uid, device, group)
    }

    /// Asks the API server and the kubelet's record what they know of an earlier claim.
    async fn judge(&self, claim: &Claim, prepared: &PreparedClaim, deadline: Instant) -> Earlier {
        let is_deallocated = self.is_deallocated(claim, prepared, deadline).await;
        let is_recorded = match is_deallocated {
            Some(true) => self.is_recorded(claim, deadline).await,
            _ => None,
        };
        self.deallocated.judge(&claim.uid, is_deallocated, is_recorded, Instant::now())
    }

    /// Returns whether the kubelet's record has a claim. None if it cannot be read, or not in time: a disk may not answer.
    async fn is_recorded(&self, claim: &Claim, deadline: Instant) -> Option<bool> {
        let (path, uid) = (self.kubelet_record.clone(), claim.uid.clone());
        let read = spawn_blocking(move || has_claim(&path, &uid));
        timeout_at(deadline.min(Instant::now() + REQUEST), read).await.ok()?.ok()?
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

/// Returns the refusal because of another claim that was not unprepared in time.
fn refusal(earlier: Earlier, device: DeviceId, other: &Claim) -> CallError {
    let claim = full_name(other);
    match earlier {
        Earlier::Ending { is_recorded } => CallError::Ending { device, claim, is_recorded },
        _ => CallError::Claimed { device, claim },
    }
}
