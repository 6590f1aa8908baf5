//! Reads the offered devices of this node, for `list` and `doctor`.

use crate::config::Config;
use crate::config::pools_error::PoolsError;
use crate::node::naming::ResourceNamer;
use crate::run_dir::RunDir;
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use anyhow::Context;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_plugin_policy::device::{DeviceState, GroupState};
use vfio_plugin_policy::pools::Pools;
use vfio_probe::device::Detail;
use vfio_probe::occupancy::combine;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, Device, Error, GroupId, Prober, Root, Viability};

/// How long the probe of one group may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads the pools for a command that only prints devices.
///
/// If the file cannot be used, a running `serve` continues with the pools that it read before. Its status
/// names its devices and their resources: these become the pools of the command, and `config.pools_error`
/// keeps the error. Blocks for up to [`ANSWER_TIMEOUT`] then.
///
/// # Errors
/// The file cannot be used, and no `serve` answers.
pub(crate) fn read_pools(config: &mut Config) -> Result<(), PoolsError> {
    let Err(error) = config.read_pools() else { return Ok(()) };
    let Ok(serving) = client::fetch(&config.run_dir, ANSWER_TIMEOUT) else { return Err(error) };
    let devices = serving.devices.iter();
    let devices = devices.filter_map(|device| Some((device.address.parse().ok()?, &*device.resource)));
    config.offered = Pools::of_devices(devices);
    config.pools_error = Some(error);
    Ok(())
}

/// Reads all offered devices with their groups and holders, sorted by id.
///
/// With `probe` each group is opened. A device that cannot be read is passed to `complain` as an error and
/// left out; so is a failed search for holders. Blocks for up to [`PROBE_TIMEOUT`] a group.
///
/// # Errors
/// The root cannot be opened, or it holds no sysfs.
pub(crate) fn offered_devices(
    config: &Config,
    probe: bool,
    mut complain: impl FnMut(Error),
) -> anyhow::Result<Vec<DeviceState>> {
    let root = Arc::new(Root::open(&config.root)?);
    let mut buffer = Buffer::new();
    let mut devices: Vec<Device> = Vec::new();
    root.scan(Detail::Full, &mut buffer, |device| match device {
        Ok(device) => devices.push(device),
        Err(error) => complain(error),
    })
    .with_context(|| {
        format!(
            "cannot read {}/sys: --root must be the directory that holds the host's sys",
            config.root.display()
        )
    })?;
    devices.sort_by_key(|device| device.id);
    let run_dir = RunDir::of_reader(&config.run_dir);
    let mut namer = ResourceNamer::new(config.offered.clone(), config.pci_ids.clone(), &run_dir);
    namer.learn(&root, &devices.iter());
    let offered: Vec<_> = devices.iter().filter_map(|device| Some((*device, namer.offer(device)?))).collect();
    let mut groups = read_groups(&root, offered.iter().filter_map(|(device, _)| device.group), probe);
    find_holders(&root, &mut groups, &mut complain);
    let state = |(device, offer): (Device, _)| {
        let group = device.group.and_then(|id| groups.get(&id).cloned());
        DeviceState { group, ..DeviceState::unbound(device, offer) }
    };
    Ok(offered.into_iter().map(state).collect())
}

/// Reads each group once. A kernel without group nodes has nothing to probe.
fn read_groups(
    root: &Arc<Root>,
    ids: impl Iterator<Item = GroupId>,
    probe: bool,
) -> BTreeMap<GroupId, GroupState> {
    let has_nodes = root.has_group_nodes();
    let prober = (probe && has_nodes).then(|| Prober::new(Arc::clone(root)));
    let mut buffer = Buffer::new();
    let mut groups = BTreeMap::new();
    for id in ids {
        groups.entry(id).or_insert_with(|| read_group(root, id, has_nodes, prober.as_ref(), &mut buffer));
    }
    groups
}

/// Reads one group: its occupancy by a peek and, with a `prober`, by a probe; and its members' drivers.
fn read_group(
    root: &Root,
    id: GroupId,
    has_node: bool,
    prober: Option<&Prober>,
    buffer: &mut Buffer,
) -> GroupState {
    let peek = root.peek(id, buffer).unwrap_or(Peek::Unavailable);
    let mut members = Vec::new();
    let _ = root.members(id, buffer, |member| members.extend(member.ok()));
    let (occupancy, evidence) = combine(peek, prober.map(|prober| prober.probe(id, PROBE_TIMEOUT)));
    GroupState {
        id,
        occupancy,
        evidence,
        has_node,
        since: Instant::now(),
        viability: Viability::of(&members),
        peek,
        holders: Vec::new(),
        coverage: None,
    }
}

/// Searches the holders of the groups that can have some.
///
/// Those are the held groups, and all groups on a kernel without group nodes: there a process can have a
/// device open that it has not bound to an iommufd, and only the search of its descriptors finds it.
fn find_holders(root: &Root, groups: &mut BTreeMap<GroupId, GroupState>, complain: &mut impl FnMut(Error)) {
    let may_have_holders = |group: &&GroupState| group.occupancy.is_held() || !group.has_node;
    let searched: Vec<GroupId> = groups.values().filter(may_have_holders).map(|group| group.id).collect();
    if searched.is_empty() {
        return;
    }
    let mut found = Vec::new();
    let coverage = root.holders(&searched, &mut |holder| found.push(holder)).map_err(complain).ok();
    for group in groups.values_mut().filter(|group| searched.contains(&group.id)) {
        group.holders = found.iter().filter(|holder| holder.group == group.id).copied().collect();
        group.coverage = coverage;
    }
}
