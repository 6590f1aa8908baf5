//! Finds the devices that a driver would publish, in the order of preference, and why it would withhold some of them.

use crate::commands::offered::{Offered, offered_devices};
use crate::commands::stderr;
use crate::config::Config;
use crate::node::hardware::readers::read_with_timeout;
use crate::status::client::{self, ANSWER_TIMEOUT};
use crate::status::report::DeviceReport;
use std::time::{Duration, Instant};
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::dra::taints::Withheld;
use vfio_plugin_policy::health::reason::Reason;
use vfio_plugin_policy::health::{AssignmentState, Case, Health, decide};
use vfio_plugin_policy::holders::coverage_gaps;
use vfio_plugin_policy::pools::terms::OfferBy;
use vfio_probe::{DeviceId, Occupancy, Presence, Root};

/// A device that a driver would publish.
#[derive(Debug)]
pub(super) struct FoundDevice {
    /// The device.
    pub(super) state: DeviceState,
    /// Why the scheduler must not allocate it. None if it may.
    pub(super) withheld: Option<Withheld>,
    /// Whether it is not known if a process holds it.
    pub(super) is_unknown: bool,
}

/// Returns all offered devices, in the order of their pools and then of their ids. Prints what makes the result incomplete.
///
/// What a running `serve` reports counts as well: it knows assignments, the results of its probes, and faults of the hardware.
/// Blocks as [`offered_devices`] does, for up to [`ANSWER_TIMEOUT`] for `serve`, and as long for each device whose registers cannot
/// be read.
///
/// # Errors
/// The root cannot be opened, or it holds no sysfs.
pub(super) fn found_devices(config: &Config, probe: bool) -> anyhow::Result<Vec<FoundDevice>> {
    let serving = client::fetch(&config.run_dir, ANSWER_TIMEOUT);
    if let Err(error) = &serving
        && client::is_expected(&config.kubelet_dir, &config.run_dir)
    {
        stderr::print(format_args!("vfio-device-plugin: {error:#}; pods of the device plugin are unknown"));
    }
    let reported = serving.map(|status| status.devices).unwrap_or_default();
    let left_out = |error| stderr::print(format_args!("vfio-device-plugin: device left out: {error}"));
    let Offered { mut devices, coverage } = offered_devices(config, probe, left_out)?;
    if !devices.is_empty() {
        for gap in coverage_gaps(&coverage) {
            stderr::print(format_args!("vfio-device-plugin: holders may be missing: {gap}"));
        }
    }
    retain_offered(config, &mut devices);
    devices
        .sort_by_key(|device| (config.offered.of(&device.device).map(|(place, _)| place), device.device.id));
    let root = Root::open(&config.root)?;
    let found = |state: DeviceState| {
        let withheld = withheld(config, &root, &state, &reported);
        let is_unknown =
            state.group.as_ref().is_some_and(|group| matches!(group.occupancy, Occupancy::Unknown(_)));
        FoundDevice { state, withheld, is_unknown }
    };
    Ok(devices.into_iter().map(found).collect())
}

/// Keeps the devices of the pools that offer them by DRA; if there is none, those of all pools, to show what a driver would publish.
pub(super) fn retain_offered(config: &Config, devices: &mut Vec<DeviceState>) {
    if config.offers_by_dra() {
        devices.retain(|device| device.terms.offer == OfferBy::Dra);
    }
}

/// Returns why the scheduler must not allocate a device.
fn withheld(
    config: &Config,
    root: &Root,
    state: &DeviceState,
    reported: &[DeviceReport],
) -> Option<Withheld> {
    if is_lost(config, root, state.device.id) {
        return Some(Reason::Lost.into());
    }
    let address = state.device.id.to_string();
    let known = reported.iter().find(|known| known.address == address);
    if known.is_some_and(|known| known.claim.is_some()) {
        return None;
    }
    if known.is_some_and(|known| known.assignment.is_some()) {
        return Some(Withheld::DevicePlugin);
    }
    let reason = known.filter(|known| known.is_unhealthy()).and_then(|known| known.typed_reason.clone());
    // The device is bound, or it would not be here.
    let reason = reason.filter(|reason| !matches!(reason, Reason::Gone | Reason::NoLongerBound));
    reason.or_else(|| judged(config, state, reported)).map(Withheld::from)
}

/// Judges a device as it is now, as if it had been so for longer than the settling time.
fn judged(config: &Config, state: &DeviceState, reported: &[DeviceReport]) -> Option<Reason> {
    let group = state.device.group.map(|group| group.0);
    let peer = reported.iter().find_map(|known| {
        let pod = known.assignment.as_ref().filter(|_| group.is_some() && known.iommu_group == group)?;
        Some((known.address.parse::<DeviceId>().ok()?, pod.pod_ref().to_string()))
    });
    let now = Instant::now();
    let case = Case {
        busy: state.terms.busy.unwrap_or(config.busy),
        device: state,
        node_counts: config.checks().node && config.root.join("dev/vfio").is_dir(),
        assignment: AssignmentState::Unassigned { since: now, peer },
        stale_answer: None,
        refused: false,
        reported: None,
        settling: Duration::ZERO,
        now,
    };
    match decide(&case).health {
        Health::Healthy => None,
        Health::Unhealthy(reason) => Some(*reason),
    }
}

fn is_lost(config: &Config, root: &Root, id: DeviceId) -> bool {
    let reading = |address| read_with_timeout(root, config.checks(), address, ANSWER_TIMEOUT);
    id.pci().and_then(reading).is_some_and(|reading| reading.presence == Some(Presence::Lost))
}
