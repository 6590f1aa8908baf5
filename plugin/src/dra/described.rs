//! Makes the published entry of each device from its state, its decision and its claim.

use crate::dra::facts::KnownFacts;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::dra::devices::Listed;
use vfio_plugin_policy::dra::taints::withheld;
use vfio_plugin_policy::health::Decision;
use vfio_plugin_policy::pools::terms::OfferBy;

/// Returns the entry of a device. None for one that is not published: the device plugin offers it, it is not decided yet, or it is not
/// bound and no prepared claim has it.
pub(super) fn listed(
    facts: &KnownFacts,
    device: &DeviceState,
    is_bound: bool,
    decision: Option<&Decision>,
    assignments: &Assignments,
) -> Option<Listed> {
    let decision = decision?;
    let prepared = assignments.is_claimed(device);
    if !is_bound && !prepared || assignments.offer_of(device) != OfferBy::Dra {
        return None;
    }
    let id = device.device.id;
    Some(Listed {
        id,
        group: device.device.group,
        attributes: facts.attributes(device),
        withheld: withheld(device, decision, assignments),
        prepared,
    })
}
