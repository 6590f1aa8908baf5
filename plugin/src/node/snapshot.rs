//! Takes a snapshot of the core's monitor.

use std::collections::BTreeMap;
use vfio_plugin_policy::device::{DeviceState, GroupState, NodeSnapshot};
use vfio_plugin_policy::pools::terms::Offer;
use vfio_probe::monitor::Tracked;
use vfio_probe::peek::Peek;
use vfio_probe::{DeviceId, GroupId, Member, Viability, Watch};

/// Returns the state of the bound devices that have an offer. The other parts of the snapshot are empty: assigned devices that are
/// no longer bound, the hardware's state, the CDI specs and the count of reports.
pub(crate) fn take(watch: &Watch, offers: &BTreeMap<DeviceId, Offer>) -> NodeSnapshot {
    let monitor = watch.monitor();
    let state = |tracked: &Tracked| {
        let offer = offers.get(&tracked.device.id)?.clone();
        Some(DeviceState {
            unbinding: tracked.unbinding,
            stale_enable: tracked.enable_is_stale(),
            group: tracked.device.group.and_then(|id| group_state(watch, id)),
            ..DeviceState::unbound(tracked.device, offer)
        })
    };
    NodeSnapshot {
        devices: monitor.devices().iter().filter_map(state).collect(),
        vfio_visible: monitor.vfio_visible(),
        container_node_missing: monitor.container_node_missing(),
        listing_failed: watch.failure().is_some(),
        errors: monitor.errors().to_vec(),
        ..NodeSnapshot::default()
    }
}

fn group_state(watch: &Watch, id: GroupId) -> Option<GroupState> {
    let group = watch.monitor().group(id)?;
    let mut offenders: Vec<Member> = Viability::offenders(&group.members).copied().collect();
    offenders.sort_unstable_by_key(|member| member.name);
    Some(GroupState {
        id,
        occupancy: group.state.occupancy,
        evidence: group.state.evidence,
        has_node: watch.monitor().has_group_nodes(),
        since: group.state.since,
        viability: group.viability,
        has_peers: group.members.len() > 1,
        offenders,
        peek: group.peek.unwrap_or(Peek::Unavailable),
        holders: watch.holders(id).to_vec(),
        coverage: watch.coverage(id),
    })
}
