//! The offered devices of this node, read now: for `list` and `doctor`.

use crate::config::Config;
use crate::config::pools_error::PoolsError;
use crate::node::naming::ResourceNamer;
use crate::node::vgpu_types::VgpuTypes;
use crate::status::client;
use crate::status::client::ANSWER;
use anyhow::Context;
use std::collections::BTreeMap;
use std::time::Instant;
use vfio_plugin_policy::device::{DeviceState, GroupState};
use vfio_plugin_policy::pools::Pools;
use vfio_probe::device::Detail;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, Device, Evidence, GroupId, Occupancy, Prober, Root, UnknownReason, Viability};

/// Reads the pools for a command that only shows what is offered: where the file cannot be used, a running `serve` goes on with
/// the pools that it read before, and says which devices those are.
///
/// # Errors
/// The file cannot be used, and no `serve` answers.
pub(crate) fn read_pools(config: &mut Config) -> Result<(), PoolsError> {
    let Err(error) = config.read_pools() else { return Ok(()) };
    let Ok(serving) = client::fetch(&config.run_dir, ANSWER) else { return Err(error) };
    let devices = serving.devices.iter();
    let devices = devices.filter_map(|device| Some((device.address.parse().ok()?, &*device.resource)));
    config.offered = Pools::of_devices(devices);
    config.pools_error = Some(error);
    Ok(())
}

/// Looks at all offered devices afresh; what cannot be read is said to `complain` and costs nothing else.
pub(crate) fn look(
    config: &Config,
    probe: bool,
    mut complain: impl FnMut(vfio_probe::Error),
) -> anyhow::Result<Vec<DeviceState>> {
    let root = std::sync::Arc::new(Root::open(&config.root)?);
    let mut buffer = Buffer::new();
    let mut devices: Vec<Device> = Vec::new();
    root.scan(Detail::Full, &mut buffer, |device| match device {
        Ok(device) => devices.push(device),
        Err(error) => complain(error),
    })
    .with_context(|| format!("{}: not a tree with the host's sys", config.root.display()))?;
    devices.sort_by_key(|device| device.id);
    let mut namer =
        ResourceNamer::new(config.offered.clone(), config.pci_ids.clone(), VgpuTypes::new(&config.run_dir));
    namer.learn(&root, &devices.iter());
    let offered: Vec<_> = devices.iter().filter_map(|device| Some((*device, namer.offer(device)?))).collect();
    let prober = Prober::new(std::sync::Arc::clone(&root));
    let has_nodes = root.has_group_nodes();
    let mut groups = BTreeMap::new();
    for id in offered.iter().filter_map(|(device, _)| device.group) {
        let prober = (probe && has_nodes).then_some(&prober);
        groups.entry(id).or_insert_with(|| group(&root, id, has_nodes, prober, &mut buffer));
    }
    // Where an open does not tell, who holds what is all that can be known of a device that is open and not used yet.
    let worth_asking = |view: &&GroupState| view.occupancy.is_held() || !view.has_node;
    let held: Vec<GroupId> = groups.values().filter(worth_asking).map(|view| view.id).collect();
    if !held.is_empty() {
        let mut found = Vec::new();
        let looked = root.holders(&held, &mut |holder| found.push(holder)).map_err(&mut complain).ok();
        for view in groups.values_mut().filter(|view| held.contains(&view.id)) {
            view.holders = found.iter().filter(|holder| holder.group == view.id).copied().collect();
            view.coverage = looked;
        }
    }
    let view = |(device, offer): (Device, _)| {
        let group = device.group.and_then(|id| groups.get(&id).cloned());
        DeviceState { group, ..DeviceState::unbound(device, offer) }
    };
    Ok(offered.into_iter().map(view).collect())
}

/// `prober` only where groups have nodes to open.
fn group(
    root: &Root,
    id: GroupId,
    has_node: bool,
    prober: Option<&Prober>,
    buffer: &mut Buffer,
) -> GroupState {
    let peek = root.peek(id, buffer).unwrap_or(Peek::Unavailable);
    let mut members = Vec::new();
    let _ = root.members(id, buffer, |member| members.extend(member.ok()));
    let opened = prober.map(|prober| prober.probe(id, ANSWER));
    let (occupancy, evidence) = match (opened, peek) {
        (Some(answer @ (Occupancy::Free | Occupancy::Held | Occupancy::Absent)), _) => {
            (answer, Evidence::Open)
        }
        (_, Peek::LooksHeld) => (Occupancy::Held, Evidence::Enable),
        (_, Peek::LooksFree) => (Occupancy::Free, Evidence::Enable),
        (Some(answer), Peek::Unavailable) => (answer, Evidence::Open),
        (None, Peek::Unavailable) => (Occupancy::Unknown(UnknownReason::NotProbed), Evidence::None),
    };
    let (viability, since) = (Viability::of(&members), Instant::now());
    GroupState {
        id,
        occupancy,
        evidence,
        has_node,
        since,
        viability,
        peek,
        holders: Vec::new(),
        coverage: None,
    }
}
