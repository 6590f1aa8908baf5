//! Wakes devices that sleep in D3cold, to check that they are still there. A VM would wake them in any case.

use crate::allocate::allocator::Allocator;
use tokio::time::{Instant, timeout_at};
use vfio_plugin_policy::allocation::{AllocateError, Plan};
use vfio_plugin_policy::health::hardware::Reading;
use vfio_probe::Presence;

impl Allocator {
    /// Refuses a sleeping device that has fallen off the bus. The kernel reports D3cold for a device that was gone when its VM
    /// ended, as for one that sleeps (`pci_set_low_power_state`). Without this check it would be allocated again and again.
    ///
    /// Runs after the probes, so that no held device is woken. A device that hangs in a reset or wakes too slowly is allocated:
    /// nothing shows that it is lost.
    ///
    /// # Errors
    /// The device does not respond.
    pub(super) async fn check_sleeping(
        &self,
        plan: &Plan<'_>,
        deadline: Instant,
    ) -> Result<(), AllocateError> {
        let Some(readers) = &self.monitor.readers else { return Ok(()) };
        // All devices are woken at once, because one may take 100 ms.
        let readings: Vec<_> = plan
            .devices()
            .filter_map(|device| Some((device.device.id, readers.wake(device.device.id.pci()?)?)))
            .collect();
        for (id, reading) in readings {
            let reading = timeout_at(deadline, reading).await;
            if let Ok(Ok(Reading { presence: Some(Presence::Lost), .. })) = reading {
                self.monitor.wake();
                self.wait_until_unhealthy(&[id.to_string()]).await;
                return Err(AllocateError::Lost { device: id });
            }
        }
        Ok(())
    }
}
