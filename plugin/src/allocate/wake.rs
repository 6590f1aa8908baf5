//! A device that sleeps is asked whether it is there before it is given away: its machine would wake it in any case.

use crate::allocate::{Allocator, LIST_FIRST, is_unhealthy};
use tokio::time::{Instant, timeout_at};
use vfio_plugin_policy::allocation::{AllocateError, Plan};
use vfio_plugin_policy::health::hardware::Reading;
use vfio_probe::Presence;

impl Allocator {
    /// Refuses what does not answer. The kernel says D3cold of a device that was gone when its machine ended, as of one that
    /// sleeps (`pci_set_low_power_state`); without this it would be given away again and again.
    ///
    /// Only after the groups have been opened: what somebody holds is not woken. One that hangs in a reset, or wakes too
    /// slowly, is given: nothing is known against it.
    pub(super) async fn check_sleepers(
        &self,
        plan: &Plan<'_>,
        deadline: Instant,
    ) -> Result<(), AllocateError> {
        let Some(looks) = &self.monitor.looks else { return Ok(()) };
        let views = plan.containers.iter().flat_map(|container| container.views.iter().copied());
        // All at once: to wake one may take a tenth of a second.
        let asked: Vec<_> =
            views.filter_map(|view| Some((view, looks.wake(view.device.id.pci()?)?))).collect();
        for (view, found) in asked {
            let found = timeout_at(deadline, found).await;
            if let Ok(Ok(Reading { presence: Some(Presence::Lost), .. })) = found {
                let id = view.device.id.to_string();
                self.monitor.wake();
                self.broadcast.sent(LIST_FIRST, |list| is_unhealthy(list, &id)).await;
                return Err(AllocateError::Lost { device: view.device.id });
            }
        }
        Ok(())
    }
}
