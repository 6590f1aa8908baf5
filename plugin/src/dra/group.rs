//! Waits until the group of a device is free.

use crate::allocate::verify::Obstacle;
use crate::dra::call_error::CallError;
use crate::dra::driver::Driver;
use crate::node::probe::{self, PendingProbe};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vfio_plugin_policy::allocation::AllocateError;
use vfio_plugin_policy::device::DeviceState;

/// How long a held group is waited for if its taint is published already: its holder is no VM that is ending.
const FOREIGN: Duration = Duration::from_secs(2);

impl Driver {
    /// Waits until a device's group is free, at most until `deadline`, and not after `call` is cancelled. `probe` is the group's first
    /// probe, which has begun.
    ///
    /// # Errors
    /// The group is held, or the call was cancelled. If it is held, the API server has stored that, or could not within 2 s.
    pub(super) async fn wait_for_group(
        &self,
        device: &DeviceState,
        probe: PendingProbe<'_>,
        call: &CancellationToken,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let patience = if self.was_withheld(device) { FOREIGN } else { Duration::MAX };
        let give_up = Instant::now().checked_add(patience).unwrap_or(deadline);
        let (id, group) = (device.device.id, probe.group());
        let (checks, assignments) = (self.checks(), self.assignments.current());
        let verified = checks.verify(device, probe, &assignments, (give_up, deadline));
        let verified = match call.run_until_cancelled(verified).await {
            Some(verified) => verified,
            // A claim for a held device must not end before the API server stores that it is held.
            None => {
                let probe = probe::begin(&self.monitor, group, deadline);
                checks.verify(device, probe, &assignments, (Instant::now(), deadline)).await
            }
        };
        match verified {
            Ok(None) if call.is_cancelled() => Err(CallError::Cancelled),
            Ok(None) => Ok(()),
            Ok(Some(Obstacle::Held)) => Err(self.refuse_held(group, device).await),
            Ok(Some(Obstacle::IsSubstitute(pod))) => {
                let error = AllocateError::Substituted { device: id, pod, no_substitute: None };
                Err(self.refuse(id, error.into(), deadline).await)
            }
            Err(error) => Err(self.refuse(id, error.into(), deadline).await),
        }
    }
}
