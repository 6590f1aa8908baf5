//! Wakes devices that sleep in D3cold, to check that they are still there. A VM would wake them in any case.

use crate::node::monitor::MonitorHandle;
use tokio::time::{Instant, timeout_at};
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::hardware::Reading;
use vfio_probe::{DeviceId, Presence};

/// Returns the first sleeping device that has fallen off the bus. The kernel reports D3cold for a device that was gone when its VM
/// ended, as for one that sleeps (`pci_set_low_power_state`). Without this check it would be allocated again and again.
///
/// To be called after the probes, so that no held device is woken. A device that hangs in a reset or wakes too slowly is not
/// returned: nothing shows that it is lost.
pub(crate) async fn lost_device(
    monitor: &MonitorHandle,
    devices: &[&DeviceState],
    deadline: Instant,
) -> Option<DeviceId> {
    let readers = monitor.readers.as_ref()?;
    // All devices are woken at once, because one may take 100 ms.
    let readings: Vec<_> = devices
        .iter()
        .filter_map(|device| Some((device.device.id, readers.wake(device.device.id.pci()?)?)))
        .collect();
    for (id, reading) in readings {
        let reading = timeout_at(deadline, reading).await;
        if let Ok(Ok(Reading { presence: Some(Presence::Lost), .. })) = reading {
            monitor.wake();
            return Some(id);
        }
    }
    None
}
