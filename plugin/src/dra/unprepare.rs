//! Unprepares a claim, after its containers have ended, so that its devices can be allocated again.

use crate::dra::call_error::CallError;
use crate::dra::driver::{CallLock, Driver};
use crate::dra::events::Kind;
use crate::node::probe;
use kubelet_api::dra::Claim;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use vfio_plugin_policy::allocation::{ProbeVerdict, judge};
use vfio_plugin_policy::dra::prepared::{PreparedClaim, PreparedDevice};
use vfio_plugin_policy::holders::describe;
use vfio_probe::{DeviceId, GroupId, Occupancy};

/// The answer is sent this long before the kubelet gives up, after the time to store a taint.
const MARGIN: Duration = Duration::from_secs(1);
/// The time before the deadline that is left to store a taint.
const STORE: Duration = Duration::from_secs(5);
/// The pause between two probes of a held group.
const PROBE_AGAIN: Duration = Duration::from_millis(100);

impl Driver {
    /// Unprepares a claim. The kubelet waits until `deadline`.
    ///
    /// # Errors
    /// The claim is still prepared: its files or its record cannot be removed, or a group is still held and the API server has not
    /// stored that. The kubelet keeps the pod and asks again, and the scheduler allocates the devices to no other claim meanwhile.
    pub(super) async fn unprepare(&self, claim: &Claim, deadline: Instant) -> Result<(), CallError> {
        let answer_by = deadline.checked_sub(MARGIN).unwrap_or(deadline);
        let lock = self.calls.begin_by(&claim.uid, answer_by).await?;
        let known = self.claims.get(&claim.uid);
        let Some(prepared) = known.or_else(|| self.kubelet_claim(&claim.uid)) else {
            // A call that failed half way.
            return self.remove_files(&lock, claim, answer_by).await;
        };
        let result = self.end(&lock, claim, &prepared, deadline).await;
        match &result {
            Ok(()) => self.events.forget(&claim.uid),
            Err(error) => {
                self.events.report(claim, &prepared.pod_names, Kind::UnprepareFailed, error.to_string());
            }
        }
        result
    }

    /// Gives a claim's devices back, and removes its files and then its record. The caller has locked the claim.
    pub(super) async fn end(
        &self,
        lock: &CallLock,
        claim: &Claim,
        prepared: &PreparedClaim,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let deadline = deadline.checked_sub(MARGIN).unwrap_or(deadline);
        if self.claims.is_current(prepared) {
            self.give_back(claim, prepared, deadline).await?;
        }
        self.remove_files(lock, claim, deadline).await?;
        let uid = claim.uid.clone();
        self.record(deadline, move |claims| claims.remove(&uid)).await?;
        self.kubelet_claims.lock().remove(&claim.uid);
        self.deallocated.forget(&claim.uid);
        Ok(())
    }

    /// Waits until the groups of a claim are free. Devices of a group that stays held are withheld from other claims.
    async fn give_back(
        &self,
        claim: &Claim,
        prepared: &PreparedClaim,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let give_up = (Instant::now() + self.release).min(deadline.checked_sub(STORE).unwrap_or(deadline));
        let mut groups: BTreeMap<GroupId, Vec<DeviceId>> = BTreeMap::new();
        for device in prepared.own_devices() {
            if let (Some(group), Some(id)) = (device.group, PreparedDevice::id(device)) {
                groups.entry(GroupId(group)).or_default().push(id);
            }
        }
        let mut any_withheld = false;
        for (group, devices) in groups {
            if self.wait_until_free(group, &devices, give_up).await {
                continue;
            }
            tracing::warn!(%group, claim = prepared.full_name(),
                "a group is still held after the containers of its claim have ended; its devices are withheld");
            // A device that was unbound meanwhile is not published any more then. It would have no taint as a device of a claim.
            self.claims.set_ended(&claim.uid, true);
            if !self.withhold(group, &devices, deadline).await {
                // The taint of another group of the claim is stored, and stays.
                self.claims.set_ended(&claim.uid, any_withheld);
                return Err(CallError::NotWithheld { group });
            }
            any_withheld = true;
            let holders = self.checks().snapshot();
            let known = devices.iter().find_map(|id| holders.get(*id)?.group.as_ref());
            let holders = describe(known.map(|group| group.holders.as_slice()).unwrap_or_default());
            let message = format!(
                "group {group} is still held by {holders} after the claim's containers have ended; no other pod gets its devices \
                 before it is free"
            );
            self.events.report(claim, &prepared.pod_names, Kind::GroupStillHeld, message);
        }
        Ok(())
    }

    /// Waits until a group is free. Returns false if it is still held, or not known to be free.
    async fn wait_until_free(&self, group: GroupId, devices: &[DeviceId], give_up: Instant) -> bool {
        loop {
            let probed = probe::open(&self.monitor, group, give_up.max(Instant::now() + PROBE_AGAIN)).await;
            let snapshot = self.checks().snapshot();
            let known = devices.iter().find_map(|id| snapshot.get(*id));
            // A device that is not bound has no peek. Only the probe shows that it is free.
            let looks_held = || known.is_none_or(|device| self.checks().looks_held(device, group));
            let is_free = judge(probed, looks_held, snapshot.vfio_visible) != ProbeVerdict::Held;
            // The group of a device that has fallen off the bus may never become free.
            let is_lost = known.is_some_and(|device| device.hardware.lost);
            if is_free || is_lost || Instant::now() >= give_up {
                match probed {
                    Occupancy::Free | Occupancy::Held => self.monitor.record_probe(group, probed),
                    _ => self.monitor.check_now(),
                }
                return is_free;
            }
            sleep(PROBE_AGAIN).await;
        }
    }
}
