//! Reads the offered devices of this node, for `list` and `doctor`.

use crate::config::Config;
use crate::config::pools_error::PoolsError;
use crate::node::naming::ResourceNamer;
use crate::run_dir::RunDir;
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use anyhow::Context;
use std::time::{Duration, Instant};
use vfio_plugin_policy::device::{DeviceState, GroupState};
use vfio_plugin_policy::pools::Pools;
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, Device, Error, GroupId, GroupSnapshot, Prober, Root, ScanCoverage};

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
    let devices =
        devices.filter_map(|device| Some((device.address.parse().ok()?, &*device.resource, device.offer)));
    config.offered = Pools::of_devices(devices);
    config.pools_error = Some(error);
    Ok(())
}

/// All offered devices at one moment.
pub(crate) struct Offered {
    /// The devices, sorted by id.
    pub(crate) devices: Vec<DeviceState>,
    /// How much the search for their holders could see.
    pub(crate) coverage: ScanCoverage,
}

/// Reads all offered devices with their groups and holders.
///
/// A holder in /proc shows that a group is held, also without a device of it. With `probe` each group is opened too. A device that cannot be read is passed to `complain` as an error and
/// left out; so is a failed search for holders. Blocks for up to [`PROBE_TIMEOUT`] a group.
///
/// # Errors
/// The root cannot be opened, or it holds no sysfs.
pub(crate) fn offered_devices(
    config: &Config,
    probe: bool,
    mut complain: impl FnMut(Error),
) -> anyhow::Result<Offered> {
    let root = Root::open(&config.root)?;
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
    let mut ids: Vec<GroupId> = offered.iter().filter_map(|(device, _)| device.group).collect();
    ids.sort_unstable();
    ids.dedup();
    let prober = probe.then(|| Prober::new(root.clone()));
    let mut errors = Vec::new();
    let probes = prober.as_ref().map(|prober| (prober, PROBE_TIMEOUT));
    let (groups, coverage) = root.read_groups(&ids, probes, &mut errors);
    // A member that cannot be read leaves no device out.
    errors.into_iter().filter(|error| error.group.is_none()).for_each(complain);
    let has_node = root.has_group_nodes();
    let state = |(device, offer): (Device, _)| {
        let place = device.group.and_then(|id| groups.binary_search_by_key(&id, |group| group.id).ok());
        let group = place.and_then(|place| groups.get(place));
        let group = group.map(|group| group_state(group, has_node, coverage));
        DeviceState { group, ..DeviceState::unbound(device, offer) }
    };
    Ok(Offered { devices: offered.into_iter().map(state).collect(), coverage })
}

fn group_state(group: &GroupSnapshot, has_node: bool, coverage: ScanCoverage) -> GroupState {
    let GroupSnapshot { id, occupancy, evidence, peek, viability, ref holders, .. } = *group;
    let (since, holders, coverage) = (Instant::now(), holders.clone(), Some(coverage));
    let (has_peers, offenders) = (group.members.len() > 1, group.offenders().copied().collect());
    GroupState {
        id,
        occupancy,
        evidence,
        has_node,
        since,
        viability,
        has_peers,
        offenders,
        peek,
        holders,
        coverage,
    }
}
