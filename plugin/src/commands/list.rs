//! `list`: the state of each device, with the health that was reported to the kubelet.

use crate::commands::offered::{Offered, offered_devices};
use crate::commands::stderr;
use crate::commands::stdout;
use crate::commands::table::{Table, or_dash};
use crate::config::Config;
use crate::driver_status::DriverStatus;
use crate::problems::{Problem, ProblemCode};
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use crate::status::report::{DeviceReport, Listing};
use crate::status::words::{EvidenceWord, StateWord};
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::holders::coverage_gaps;
use vfio_plugin_policy::pools::terms::OfferBy;
use vfio_probe::device::Detail;
use vfio_probe::{ErrorKind, Root};

/// The columns of the table. Those about the hardware matter least to a reader who asks what is wrong.
const TABLE: Table<9> = Table {
    heading: ["ADDRESS", "GROUP", "NUMA", "RESOURCE", "STATE", "EVIDENCE", "HEALTH", "POD", "NOTE"],
    optional: &[2, 5, 3, 1, 7],
    last: 24,
};

/// Runs the command and returns the exit code. `columns` is the width of the table.
pub(crate) fn run(config: &Config, json: bool, probe: bool, columns: Option<usize>) -> anyhow::Result<u8> {
    if let Some(error) = &config.pools_error {
        let file = config.pools_file();
        stderr::print(format_args!(
            "vfio-device-plugin: {file}: {error}; listing the devices of the running serve instead"
        ));
    }
    let serving = client::fetch(&config.run_dir, ANSWER_TIMEOUT);
    if let Err(error) = &serving
        && client::is_expected(&config.kubelet_dir, &config.run_dir)
    {
        stderr::print(format_args!("vfio-device-plugin: {error:#}; health and pods are unknown"));
    }
    let left_out = |error| stderr::print(format_args!("vfio-device-plugin: device left out: {error}"));
    let Offered { devices, coverage } = offered_devices(config, probe, left_out)?;
    if !devices.is_empty() {
        for gap in coverage_gaps(&coverage) {
            stderr::print(format_args!("vfio-device-plugin: holders may be missing: {gap}"));
        }
    }
    let assignments_known = serving.as_ref().is_ok_and(|serving| serving.assignments_known);
    let says_why = |problem: &Problem| problem.code == ProblemCode::AssignmentsUnknown;
    if serving.as_ref().is_ok_and(|serving| !assignments_known && !serving.problems.iter().any(says_why)) {
        stderr::print(format_args!(
            "vfio-device-plugin: no assignments known: the kubelet has not answered serve; `vfio-device-plugin doctor` says why"
        ));
    }
    let (reported, dra, problems) =
        serving.map(|status| (status.devices, status.dra, status.problems)).unwrap_or_default();
    for reason in dra.iter().flat_map(DriverStatus::unready) {
        stderr::print(format_args!("vfio-device-plugin: {reason}"));
    }
    for problem in &problems {
        stderr::print(format_args!("vfio-device-plugin: problem of serve: {problem}"));
    }
    let root = Root::open(&config.root)?;
    let mut reports: Vec<DeviceReport> = devices.iter().map(|device| combined(device, &reported)).collect();
    // A device whose unbind waits for its holder, or that is assigned to a pod, is not among the bound
    // devices; serve knows it.
    let unlisted = reported.into_iter().filter(|report| {
        (report.driver.is_none() || report.assignment.is_some())
            && !devices.iter().any(|device| device.device.id.to_string() == report.address)
    });
    reports.extend(unlisted.map(|report| DeviceReport { typed_reason: None, ..unselected(&root, report) }));
    let listing = Listing { assignments_known, devices: reports, dra, problems, coverage: coverage.into() };
    let text = if json { serde_json::to_string(&listing)? + "\n" } else { table(&listing, columns) };
    stdout::print(&text)?;
    Ok(0)
}

/// Corrects what a running `serve` reported of a device that this command does not select, or that is not bound: it may have left
/// the bus, or may have another driver, since the latest pass of `serve`. Then it is absent, or not known to be free.
fn unselected(root: &Root, mut report: DeviceReport) -> DeviceReport {
    let Ok(id) = report.address.parse() else { return report };
    let state = match root.device(id, Detail::Identity) {
        Err(error) if error.kind == ErrorKind::Missing => StateWord::Absent,
        Ok(device) if device.driver.map(|driver| driver.to_string()) != report.driver => StateWord::Unknown,
        Ok(_) | Err(_) => return report,
    };
    // The kernel's unbind waits for a holder.
    if state == StateWord::Absent || report.state == StateWord::Free {
        (report.state, report.evidence) = (state, EvidenceWord::None);
        report.holders.clear();
    }
    report
}

/// Combines a device as it is now with what a running `serve` reported.
///
/// Serve knows what a peek and a search of /proc cannot see: a holder that is invisible from here, a count that is left over
/// from before the bind, a device node that has been missing for a while.
pub(crate) fn combined(device: &DeviceState, reported: &[DeviceReport]) -> DeviceReport {
    let mut report = DeviceReport::new(device, None, None);
    let Some(known) = reported.iter().find(|known| known.address == report.address) else { return report };
    report.health = known.health;
    report.assignment.clone_from(&known.assignment);
    report.claim.clone_from(&known.claim);
    report.taint.clone_from(&known.taint);
    report.offer = known.offer;
    // An assigned device stays in the resource that it was allocated from, whatever the pools say now.
    report.resource.clone_from(&known.resource);
    if known.reason.is_some() {
        report.reason.clone_from(&known.reason);
    }
    let complete =
        device.group.as_ref().and_then(|group| group.coverage).is_some_and(|seen| seen.is_complete());
    let serve_saw_it = match known.evidence {
        EvidenceWord::Open => true,
        // A complete search of now finds what an earlier one found.
        EvidenceWord::Holder => !complete,
        EvidenceWord::Enable | EvidenceWord::Node | EvidenceWord::None => false,
    };
    let serve_knows_better = match (report.state, known.state) {
        (StateWord::Free | StateWord::Unknown, StateWord::Held) | (StateWord::Unknown, StateWord::Free) => {
            serve_saw_it
        }
        (StateWord::Held, StateWord::Free) => known.stale_enable,
        // Without evidence the device was absent from the bus, and it is bound now.
        (_, StateWord::Absent) => known.evidence != EvidenceWord::None,
        _ => false,
    };
    if report.state == StateWord::Held
        && known.state == StateWord::Held
        && report.evidence == EvidenceWord::Holder
        && known.evidence == EvidenceWord::Open
    {
        // EBUSY is the better evidence, and the holder found now shows that it still holds.
        report.evidence = known.evidence;
    }
    let seen_here = matches!(report.evidence, EvidenceWord::Open | EvidenceWord::Holder);
    if !seen_here && serve_knows_better {
        report.state = known.state;
        report.evidence = known.evidence;
        report.holders.clone_from(&known.holders);
    }
    report
}

/// Returns whether a running DRA driver offers the device.
fn is_of_driver(device: &DeviceReport) -> bool {
    device.offer == OfferBy::Dra && device.health.is_some()
}

/// Returns the listing as a table.
fn table(listing: &Listing, columns: Option<usize>) -> String {
    if listing.devices.is_empty() {
        return "No selected device is bound to a VFIO driver.\n".to_owned();
    }
    let row = |device: &DeviceReport| {
        let holders = device.holders.iter().map(|holder| format!("pid {} ({})", holder.pid, holder.command));
        let holders: Vec<String> = holders.collect();
        [
            device.address.clone(),
            or_dash(device.iommu_group),
            or_dash(device.numa_node),
            device.resource.clone(),
            device.state.to_string(),
            device.evidence.to_string(),
            or_dash(device.health),
            match (&device.claim, &device.assignment) {
                (Some(claim), _) => claim.to_string(),
                // The driver knows all claims, and a device of no claim and no pod is free for one.
                (None, None) if !listing.assignments_known && !is_of_driver(device) => "?".to_owned(),
                (None, assignment) => or_dash(assignment.as_ref()),
            },
            device.reason.clone().unwrap_or_else(|| holders.join(", ")),
        ]
    };
    let rows: Vec<[String; 9]> = listing.devices.iter().map(row).collect();
    TABLE.layout(&rows, columns)
}
