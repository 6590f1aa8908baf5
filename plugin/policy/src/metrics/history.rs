//! Remembers which devices stayed held after their pods had ended.

use crate::assignments::index::Assignments;
use crate::device::NodeSnapshot;
use std::collections::BTreeSet;
use std::sync::Arc;
use vfio_probe::DeviceId;

/// The devices that were held when their assignment ended, and have been held without an assignment since. Begins with the
/// process: of an assignment that ended before, it knows what the state file shows.
#[derive(Clone, Debug, Default)]
pub struct HeldAfterPod {
    assigned: BTreeSet<DeviceId>,
    held: Arc<BTreeSet<DeviceId>>,
}

impl HeldAfterPod {
    /// Takes in a pass over all devices.
    pub fn update(&mut self, snapshot: &NodeSnapshot, assignments: &Assignments) {
        let (mut assigned, mut held) = (BTreeSet::new(), BTreeSet::new());
        for device in &snapshot.devices {
            let id = device.device.id;
            if assignments.assignment(device).is_some() {
                assigned.insert(id);
            } else if device.is_held() && (self.assigned.contains(&id) || self.held.contains(&id)) {
                held.insert(id);
            }
        }
        // A device that is unbound for a moment is still assigned.
        assigned.extend(snapshot.unbound.iter().map(|device| device.device.id));
        self.assigned = assigned;
        if *self.held != held {
            self.held = Arc::new(held);
        }
    }

    /// Takes in that only these devices were assigned since the pass before.
    pub fn assigned(&mut self, ids: &[DeviceId]) {
        self.assigned.extend(ids);
        if ids.iter().any(|id| self.held.contains(id)) {
            let held = Arc::make_mut(&mut self.held);
            ids.iter().for_each(|id| {
                held.remove(id);
            });
        }
    }

    /// Returns the devices.
    pub fn devices(&self) -> Arc<BTreeSet<DeviceId>> {
        Arc::clone(&self.held)
    }
}
