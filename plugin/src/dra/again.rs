//! Checks a claim that is prepared already and that the kubelet asks for again.

use crate::dra::call_error::CallError;
use crate::dra::driver::Driver;
use std::collections::BTreeSet;
use vfio_plugin_policy::allocation::AllocateError;
use vfio_plugin_policy::dra::claim::Allocation;
use vfio_plugin_policy::dra::prepared::{PreparedClaim, PreparedDevice};
use vfio_probe::{Holder, InPod};

impl Driver {
    /// Checks a claim that is prepared already. The kubelet asks again after its own restart, and for each further pod of the claim.
    /// Nothing is opened: a VM may be about to open the group.
    pub(super) async fn check_again(
        &self,
        known: &PreparedClaim,
        allocation: &Allocation,
    ) -> Result<PreparedClaim, CallError> {
        let results: BTreeSet<(&str, String, bool)> = allocation
            .results
            .iter()
            .map(|result| (result.request.as_str(), result.device.to_string(), result.is_admin))
            .collect();
        let devices = known.devices.iter();
        let before: BTreeSet<(&str, String, bool)> =
            devices.map(|device| (device.request.as_str(), device.device.clone(), device.is_admin)).collect();
        let device = |(_, device, _): &(&str, String, bool)| device.clone();
        let has_changed = match known.is_adopted {
            // The kubelet's record has neither subrequests nor adminAccess.
            true => !results.iter().map(device).eq(before.iter().map(device)),
            false => results != before,
        };
        if has_changed {
            return Err(CallError::Reallocated);
        }
        // The latest pass may be older than a holder.
        self.monitor.check_now();
        let (checks, reports) = (self.checks(), self.monitor.reports_sent());
        for device in known.own_devices().filter_map(PreparedDevice::id) {
            checks.wait_for_holders(device, reports).await;
        }
        let snapshot = checks.snapshot();
        for result in allocation.results.iter().filter(|result| !result.is_admin) {
            let device = self.bound(result.device, &snapshot)?;
            self.checks().check_bound(device)?;
            let holders = device.group.as_ref().map(|group| group.holders.as_slice()).unwrap_or_default();
            let is_of_claim =
                |uid: &str| allocation.is_for_any_pod || allocation.pods.iter().any(|pod| pod == uid);
            let is_foreign = |holder: &Holder| match &holder.container.pod_uid {
                Some(uid) => !is_of_claim(&uid.to_string()),
                // The VM of a Kata container is in a cgroup that names no pod.
                None => holder.container.in_pod == InPod::No,
            };
            if holders.iter().any(is_foreign) {
                return Err(AllocateError::held(device, holders, None).into());
            }
        }
        Ok(PreparedClaim {
            pods: allocation.pods.clone(),
            pod_names: allocation.pod_names.clone(),
            is_for_any_pod: allocation.is_for_any_pod,
            pod_claim_name: allocation.pod_claim_name.clone(),
            is_adopted: false,
            devices: known.devices_of(allocation),
            ..known.clone()
        })
    }
}
