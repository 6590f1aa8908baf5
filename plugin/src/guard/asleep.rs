//! A device that sleeps is asked whether it is there before it is given away: its machine would wake it in any case.

use super::{Guard, LIST_FIRST, is_unhealthy};
use crate::allocate::{self, Plan};
use crate::condition::Look;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use vfio_probe::Presence;

impl Guard {
    /// Refuses what does not answer. The kernel says D3cold of a device that was gone when its machine ended, as of one that
    /// sleeps (`pci_set_low_power_state`); without this it would be given away again and again.
    ///
    /// Only after the groups have been opened: what somebody holds is not woken. One that hangs in a reset, or wakes too
    /// slowly, is given: nothing is known against it.
    pub(super) async fn check_sleepers(&self, plan: &Plan<'_>, deadline: Instant) -> Result<(), Status> {
        let Some(looks) = &self.monitoring.looks else { return Ok(()) };
        let views = plan.containers.iter().flat_map(|wish| wish.views.iter().copied());
        // All at once: to wake one may take a tenth of a second.
        let asked: Vec<_> =
            views.filter_map(|view| Some((view, looks.wake(view.device.id.pci()?)?))).collect();
        for (view, found) in asked {
            let found = timeout_at(deadline, found).await;
            if let Ok(Ok(Look { presence: Some(Presence::Lost), .. })) = found {
                let id = view.device.id.to_string();
                self.monitoring.wake();
                self.feed.sent(LIST_FIRST, |list| is_unhealthy(list, &id)).await;
                return Err(allocate::lost(view));
            }
        }
        Ok(())
    }
}
