//! Makes the published entry of each device from its state, its decision and its claim.

use crate::dra::facts::FactsReader;
use std::collections::{BTreeMap, BTreeSet};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::dra::attributes::{DeviceFacts, attributes};
use vfio_plugin_policy::dra::devices::{GroupSharing, Listed};
use vfio_plugin_policy::dra::taints::Withheld;
use vfio_plugin_policy::health::{Decision, Health};
use vfio_probe::DeviceId;

/// The facts of each device, which do not change while it is bound.
pub(super) struct Described {
    reader: FactsReader,
    facts: BTreeMap<DeviceId, DeviceFacts>,
}

impl Described {
    /// Returns an empty memory.
    pub(super) fn new(reader: FactsReader) -> Self {
        Self { reader, facts: BTreeMap::new() }
    }

    /// Returns the entry of a device. None for one that is not published: it is not decided yet, or it is not bound and no prepared
    /// claim has it.
    pub(super) fn listed(
        &mut self,
        device: &DeviceState,
        is_bound: bool,
        decision: Option<&Decision>,
        assignments: &Assignments,
    ) -> Option<Listed> {
        let decision = decision?;
        let prepared = assignments.is_claimed(device);
        if !is_bound && !prepared {
            return None;
        }
        let withheld = match &decision.health {
            Health::Unhealthy(reason) => Some(Withheld::from((**reason).clone())),
            Health::Healthy if !prepared && assignments.assignment(device).is_some() => {
                Some(Withheld::DevicePlugin)
            }
            Health::Healthy => None,
        };
        let id = device.device.id;
        let facts = self.facts.entry(id).or_insert_with(|| self.reader.facts(device));
        Some(Listed {
            id,
            group: device.device.group,
            sharing: GroupSharing::Exclusive,
            attributes: attributes(device, facts),
            withheld,
            prepared,
        })
    }

    /// Forgets the devices that are not listed.
    pub(super) fn forget_others(&mut self, listed: &[Listed]) {
        let known: BTreeSet<DeviceId> = listed.iter().map(|device| device.id).collect();
        self.facts.retain(|id, _| known.contains(id));
    }
}
