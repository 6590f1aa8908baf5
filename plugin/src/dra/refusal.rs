//! Refuses a device, after the API server has stored that it must not be allocated.

use crate::dra::call_error::CallError;
use crate::dra::driver::{Driver, STORE};
use std::collections::BTreeSet;
use tokio::time::Instant;
use vfio_plugin_policy::allocation::AllocateError;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::reason::Reason;
use vfio_probe::{DeviceId, GroupId};

impl Driver {
    /// Refuses a held device, after the API server has stored that it is held, and names its holders.
    pub(super) async fn refuse_held(&self, group: GroupId, device: &DeviceState) -> CallError {
        let (id, reports) = (device.device.id, self.monitor.reports_sent());
        let checks = self.checks();
        let devices = [id];
        let withheld = self.withhold(group, &devices, Instant::now() + STORE);
        let (stored, ()) = tokio::join!(withheld, checks.wait_for_holders(id, reports));
        if !stored {
            tracing::warn!(device = %id, %group, "the API server has not stored in time that a device is held");
        }
        let snapshot = checks.snapshot();
        let holders = snapshot.get(id).and_then(|device| Some(device.group.as_ref()?.holders.as_slice()));
        AllocateError::held(device, holders.unwrap_or_default(), None).into()
    }

    /// Refuses a device for a reason that the monitor will find as well, and waits until the API server has stored it.
    pub(super) async fn refuse(&self, device: DeviceId, error: CallError, deadline: Instant) -> CallError {
        // The scheduler knows that the other claim has it, unless a pod was deleted by force.
        if matches!(error, CallError::Claimed { .. }) {
            return error;
        }
        self.monitor.reread_records();
        let deadline = deadline.min(Instant::now() + STORE);
        if !self.stored.wait_until_withheld(&BTreeSet::from([device]), deadline).await {
            tracing::info!(%device, %error, "a device is refused that the API server still offers");
        }
        error
    }

    /// Returns whether the device is published as held.
    pub(super) fn was_withheld(&self, device: &DeviceState) -> bool {
        let mut is_held = false;
        self.publisher.visit(&self.checks().snapshot(), &self.assignments.current(), |other, decision, _| {
            if other.device.id == device.device.id {
                let reason = decision.and_then(|decision| decision.health.reason());
                is_held = matches!(reason, Some(Reason::Held { .. }));
            }
        });
        is_held
    }
}
