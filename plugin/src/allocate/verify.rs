//! Whether a device can be given away at this moment.

use crate::allocate::Allocator;
use crate::node::probe;
use crate::node::probe::PendingProbe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use vfio_plugin_policy::allocation;
use vfio_plugin_policy::allocation::{AllocateError, ProbeVerdict};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_probe::device::Detail;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, Evidence, GroupId, Kind, Occupancy};

/// A former machine may still be closing: a held group is asked again for this long.
const CLOSING: Duration = Duration::from_secs(1);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// UnknownReason a device cannot be given as asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// Somebody has it open.
    Held,
    /// This pod was given it in place of another, of which the kubelet's books know nothing.
    GivenInstead(String),
}

impl Allocator {
    /// Opens a group before it is given away; none if it can be.
    ///
    /// A held one is given to nobody, not even where the very same ids were granted before: the kubelet asks again only for
    /// a container that does not run (`GetDeviceRunContainerOptions`), or for another pod, its former owner having been
    /// deleted by force a moment ago.
    pub(super) async fn check(
        &self,
        view: &DeviceState,
        first: PendingProbe<'_>,
        owners: &Assignments,
        deadline: Instant,
    ) -> Result<Option<Taken>, AllocateError> {
        if let Some(given) = owners.substituted_for(view) {
            return Ok(Some(Taken::GivenInstead(given.pod.to_string())));
        }
        let group = first.group();
        let give_up = (Instant::now() + CLOSING).min(deadline);
        let mut opening = first;
        loop {
            let answer = opening.answer().await;
            // What is known by now: an open may have taken its time, and a machine may have ended meanwhile.
            let snapshot = self.snapshot();
            let known = snapshot.of(view.device.id);
            let looks_held = || known.is_some_and(|known| self.looks_held(known, group));
            let sure = answer == Occupancy::Absent && snapshot.vfio_visible && !self.exists(group);
            match allocation::judge(answer, looks_held, sure) {
                ProbeVerdict::Grant => {
                    // News only where the monitor thinks otherwise; the usual answer costs nothing more.
                    let group_of = |view: &DeviceState| view.group.as_ref().map(|group| group.occupancy);
                    let agreed = known.and_then(group_of) == Some(Occupancy::Free);
                    if answer == Occupancy::Free && !agreed {
                        self.monitor.told(group, answer);
                    }
                    return Ok(None);
                }
                ProbeVerdict::Held if Instant::now() + ASK_AGAIN < give_up => {
                    sleep(ASK_AGAIN).await;
                    opening = probe::begin(&self.monitor, group, deadline);
                }
                ProbeVerdict::Held => {
                    if answer == Occupancy::Held {
                        self.monitor.told(group, answer);
                    } else {
                        // A refusal lasts as long as the monitor sees the holder, who has just been seen here.
                        self.monitor.check_now();
                    }
                    return Ok(Some(Taken::Held));
                }
                ProbeVerdict::Absent => {
                    return Err(AllocateError::GroupGone { device: view.device.id, group });
                }
            }
        }
    }

    /// What is known, with a new look at what of these is known to be held: the kubelet asks for that only if it has lost its
    /// books, or has just reports_seen of a machine's end.
    pub(crate) fn looked_again(&self, ids: &[String]) -> Arc<NodeSnapshot> {
        let mut snapshot = self.snapshot();
        let held = |id: &String| snapshot.device(id).is_some_and(DeviceState::is_held);
        if ids.iter().any(held) {
            let devices = Arc::make_mut(&mut snapshot).devices.iter_mut();
            for view in devices.filter(|view| view.is_held() && ids.contains(&view.device.id.to_string())) {
                let looks_held = view.device.group.is_none_or(|group| self.looks_held(view, group));
                if let Some(known) = view.group.as_mut().filter(|_| !looks_held) {
                    known.occupancy = Occupancy::Free;
                    known.since = std::time::Instant::now();
                }
            }
        }
        snapshot
    }

    /// Whether a group that could not be opened is held, by a look made now; what the monitor knows may be an interval old.
    pub(super) fn looks_held(&self, known: &DeviceState, group: GroupId) -> bool {
        let Some(seen) = &known.group else { return false };
        let now = self.monitor.root.peek(group, &mut Buffer::new()).unwrap_or(Peek::Unavailable);
        match now {
            // Only the monitor knows what a count is when nobody is there.
            Peek::LooksHeld if known.stale_enable => seen.occupancy.is_held(),
            Peek::LooksHeld => true,
            // An open has found somebody who raises no count.
            Peek::LooksFree => seen.occupancy.is_held() && seen.evidence == Evidence::Open,
            Peek::Unavailable => seen.occupancy.is_held(),
        }
    }

    /// Looks once more whether a device is bound as it was: where another of its group is, the group's open does not tell.
    pub(super) fn check_bound(&self, view: &DeviceState) -> Result<(), AllocateError> {
        let Some(group) = view.device.group else { return Ok(()) };
        // What cannot be read says nothing.
        let Ok(driver) = self.monitor.root.driver_in(group, view.device.id) else { return Ok(()) };
        if driver == view.device.driver {
            return self.check_type(view);
        }
        Err(AllocateError::DriverChanged { device: view.device.id, driver })
    }

    /// A vendor's virtual function may have been made another vGPU, or none, since it was last read, and stays bound all the while.
    fn check_type(&self, view: &DeviceState) -> Result<(), AllocateError> {
        let id = view.device.id;
        if view.device.kind != Kind::VendorVf {
            return Ok(());
        }
        let Ok(now) = self.monitor.root.device(id, Detail::Identity) else { return Ok(()) };
        if now.vgpu_type == view.device.vgpu_type {
            return Ok(());
        }
        self.monitor.reread_records();
        Err(AllocateError::VgpuTypeChanged { device: id, vgpu_type: now.vgpu_type })
    }

    fn exists(&self, group: GroupId) -> bool {
        self.monitor.root.members(group, &mut Buffer::new(), |_| {}).is_ok()
    }
}
