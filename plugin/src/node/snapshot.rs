//! Takes a snapshot of what the monitor knows at one moment.

use vfio_plugin_policy::device::{DeviceState, GroupState, NodeSnapshot};
use vfio_plugin_policy::pools::terms::Offer;
use vfio_probe::peek::Peek;
use vfio_probe::{Device, Watch};

/// Takes the watch's state. `offer` says how a device is offered; a device without an offer is left out.
pub(crate) fn take(watch: &Watch, mut offer: impl FnMut(&Device) -> Option<Offer>) -> NodeSnapshot {
    let monitor = watch.monitor();
    let devices = monitor.devices().iter().filter_map(|tracked| {
        let group = tracked.device.group.and_then(|id| monitor.group(id)).map(|group| GroupState {
            id: group.id,
            occupancy: group.state.occupancy,
            evidence: group.state.evidence,
            has_node: monitor.has_group_nodes(),
            since: group.state.since,
            viability: group.viability,
            peek: group.peek.unwrap_or(Peek::Unavailable),
            holders: watch.holders(group.id).to_vec(),
            coverage: watch.coverage(group.id),
        });
        let view = DeviceState::unbound(tracked.device, offer(&tracked.device)?);
        let (unbinding, stale_enable) = (tracked.unbinding, tracked.enable_is_stale());
        Some(DeviceState { unbinding, stale_enable, group, ..view })
    });
    NodeSnapshot {
        devices: devices.collect(),
        unbound: Vec::new(),
        vfio_visible: monitor.vfio_visible(),
        container_node_missing: monitor.container_node_missing(),
        errors: monitor.errors().to_vec(),
        reports_seen: 0,
        cdi: Vec::new(),
    }
}
