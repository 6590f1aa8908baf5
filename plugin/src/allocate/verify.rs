//! Verifies that a device can be allocated at this moment: by the group's probe, a peek, and the device's driver.

use crate::node::monitor::MonitorHandle;
use crate::node::probe;
use crate::node::probe::PendingProbe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::{AllocateError, ProbeVerdict};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::device::{DeviceState, GroupState, NodeSnapshot};
use vfio_probe::device::Detail;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, DeviceId, Evidence, GroupId, Kind, Occupancy, Viability};

/// The pause between two probes of a held group.
const PROBE_AGAIN: Duration = Duration::from_millis(100);

/// A refusal waits this long for the list that reports the refused device as Unhealthy, and for the search for its holders.
pub(super) const LIST_FIRST: Duration = Duration::from_millis(200);

/// Why a requested device cannot be allocated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Obstacle {
    /// A process holds the group.
    Held,
    /// The device was allocated to this pod as the substitute of another one, which the kubelet does not know.
    IsSubstitute(String),
}

/// Checks devices and groups as they are now, before they are allocated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks<'a> {
    /// The monitor.
    pub(crate) monitor: &'a MonitorHandle,
}

impl Checks<'_> {
    /// Returns the monitor's latest snapshot.
    pub(crate) fn snapshot(&self) -> Arc<NodeSnapshot> {
        self.monitor.snapshots.borrow().clone().unwrap_or_default()
    }

    /// Waits until the monitor has taken in these reports and has searched for the holders of a device, at most 200 ms.
    ///
    /// The list of devices does not wait for that search, which takes long where there are many processes.
    pub(crate) async fn wait_for_holders(&self, id: DeviceId, reports: u64) {
        let mut snapshots = self.monitor.snapshots.clone();
        let searched = |snapshot: &Option<Arc<NodeSnapshot>>| {
            snapshot.as_ref().is_some_and(|snapshot| {
                let group = snapshot.get(id).and_then(|device| device.group.as_ref());
                snapshot.reports_seen >= reports && group.is_none_or(GroupState::holders_were_searched)
            })
        };
        let _ = timeout(LIST_FIRST, snapshots.wait_for(searched)).await;
    }

    /// Verifies that a group can be opened. Returns none if it can. `probe` is the group's first probe, which has begun.
    ///
    /// A held group is probed again until `give_up`, because the VM of the pod before may still be closing it.
    ///
    /// A held device is refused even if the same ids were granted before. The kubelet repeats a request only for a container that
    /// does not run (`GetDeviceRunContainerOptions`), or for another pod after the pod before was deleted by force.
    ///
    /// # Errors
    /// The group no longer exists.
    pub(crate) async fn verify(
        &self,
        device: &DeviceState,
        mut probe: PendingProbe<'_>,
        assignments: &Assignments,
        (give_up, deadline): (Instant, Instant),
    ) -> Result<Option<Obstacle>, AllocateError> {
        if let Some(assignment) = assignments.substituted_for(device) {
            return Ok(Some(Obstacle::IsSubstitute(assignment.pod.to_string())));
        }
        let (id, group) = (device.device.id, probe.group());
        let give_up = give_up.min(deadline);
        loop {
            let probed = probe.result().await;
            // The snapshot after the probe: the probe may have taken long, and a VM may have ended meanwhile.
            let snapshot = self.snapshot();
            let known = snapshot.get(id);
            let looks_held = || known.is_some_and(|known| self.looks_held(known, group));
            let absent_is_sure =
                probed == Occupancy::Absent && snapshot.vfio_visible && !self.group_exists(group);
            match allocation::judge(probed, looks_held, absent_is_sure) {
                ProbeVerdict::Grant => {
                    // The usual result agrees with the monitor and costs nothing more.
                    let known = known.and_then(|known| Some(known.group.as_ref()?.occupancy));
                    if probed == Occupancy::Free && known != Some(Occupancy::Free) {
                        self.monitor.record_probe(group, probed);
                    }
                    return Ok(None);
                }
                ProbeVerdict::Held if Instant::now() + PROBE_AGAIN < give_up => {
                    sleep(PROBE_AGAIN).await;
                    probe = probe::begin(self.monitor, group, deadline);
                }
                ProbeVerdict::Held => {
                    if probed == Occupancy::Held {
                        self.monitor.record_probe(group, probed);
                    } else {
                        // A refusal lasts as long as the monitor sees the holder, which a peek has found here.
                        self.monitor.check_now();
                    }
                    return Ok(Some(Obstacle::Held));
                }
                ProbeVerdict::Absent => return Err(AllocateError::GroupGone { device: id, group }),
            }
        }
    }

    /// Peeks whether a group is held, now: the monitor's latest peek may be an interval old.
    pub(crate) fn looks_held(&self, known: &DeviceState, group: GroupId) -> bool {
        let Some(state) = &known.group else { return false };
        let peek = self.monitor.root.peek(group, &mut Buffer::new()).unwrap_or(Peek::Unavailable);
        match peek {
            // Only the monitor knows the baseline of a stale count.
            Peek::LooksHeld if known.stale_enable => state.occupancy.is_held(),
            Peek::LooksHeld => true,
            // A probe or a search of /proc has found a holder that does not raise `enable`.
            Peek::LooksFree => {
                state.occupancy.is_held() && matches!(state.evidence, Evidence::Open | Evidence::Holder)
            }
            Peek::Unavailable => state.occupancy.is_held(),
        }
    }

    /// Checks that a device is bound as it was listed. A probe of the group does not show that, if a group peer is bound.
    ///
    /// # Errors
    /// The device has another driver or another vGPU type. What cannot be read is no error.
    pub(crate) fn check_bound(&self, device: &DeviceState) -> Result<(), AllocateError> {
        let id = device.device.id;
        let Some(group) = device.device.group else { return Ok(()) };
        let Ok(driver) = self.monitor.root.driver_in(group, id) else { return Ok(()) };
        if driver == device.device.driver {
            return self.check_vgpu_type(device);
        }
        Err(AllocateError::DriverChanged { device: id, driver })
    }

    /// Returns why VFIO cannot use a device's group now. None also if it cannot be read.
    ///
    /// Costs no system call for a group whose only member is the device. If the kernel's uevents are not heard, such a group may
    /// have another member by now, and is listed too.
    pub(crate) fn not_viable(&self, device: &DeviceState) -> Option<AllocateError> {
        let state = device.group.as_ref()?;
        if !state.has_peers && self.monitor.hears_uevents {
            return None;
        }
        let group = self.monitor.root.group(state.id, &mut Buffer::new()).ok()?;
        let Viability::NotViable { member, driver } = group.viability else { return None };
        let offender = format!("{member} is bound to {driver}");
        Some(AllocateError::NotViable { device: device.device.id, group: state.id, offender })
    }

    /// Checks that a vendor's virtual function still is the same vGPU. It stays bound when its type is changed or removed.
    fn check_vgpu_type(&self, device: &DeviceState) -> Result<(), AllocateError> {
        let id = device.device.id;
        if device.device.kind != Kind::VendorVf {
            return Ok(());
        }
        let Ok(now) = self.monitor.root.device(id, Detail::Identity) else { return Ok(()) };
        if now.vgpu_type == device.device.vgpu_type {
            return Ok(());
        }
        self.monitor.reread_records();
        Err(AllocateError::VgpuTypeChanged { device: id, vgpu_type: now.vgpu_type })
    }

    fn group_exists(&self, group: GroupId) -> bool {
        self.monitor.root.members(group, &mut Buffer::new(), |_| {}).is_ok()
    }
}
