//! `who`: prints the processes that hold a device or group.

use crate::commands::table::{layout, or_dash};
use crate::config::Config;
use crate::status::report::HolderReport;
use anyhow::{Context, bail};
use serde::Serialize;
use vfio_probe::device::Detail;
use vfio_probe::{DeviceId, GroupId, Holder, Root, ScanCoverage};

/// The output of `who --json`.
#[derive(Serialize)]
struct WhoReport {
    /// The group that was searched.
    iommu_group: u32,
    /// The holders that were found.
    holders: Vec<HolderVia>,
    /// Processes that were searched.
    processes: u32,
    /// Processes that could not be read.
    unreadable: u32,
    /// Open VFIO device descriptors of unknown device.
    unattributed: u32,
}

/// One holder, with the descriptor that holds the group.
#[derive(Serialize)]
struct HolderVia {
    #[serde(flatten)]
    holder: HolderReport,
    /// `group`, `device` or `cdev`.
    via: &'static str,
}

/// Runs the command and returns the exit code: 0 if a holder was found, 1 if not.
///
/// # Errors
/// The target is no device or group of this node, or /proc cannot be read.
pub(crate) fn run(config: &Config, target: &str, json: bool) -> anyhow::Result<u8> {
    let root = Root::open(&config.root)?;
    let group = group_of(&root, target)?;
    let mut holders: Vec<Holder> = Vec::new();
    let coverage = root
        .holders(&[group], &mut |holder| holders.push(holder))
        .context("cannot search /proc for holders")?;
    let found = !holders.is_empty();
    if json {
        let via = |holder: &Holder| HolderVia { holder: holder.into(), via: holder.via.as_str() };
        let holders = holders.iter().map(via).collect();
        let ScanCoverage { processes, unreadable, unattributed, .. } = coverage;
        let report = WhoReport { iommu_group: group.0, holders, processes, unreadable, unattributed };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(group, &holders, coverage);
    }
    Ok(u8::from(!found))
}

/// Returns the group that `target` names by its number or by one of its devices.
fn group_of(root: &Root, target: &str) -> anyhow::Result<GroupId> {
    if let Ok(group) = target.parse::<GroupId>() {
        root.members(group, &mut vfio_probe::Buffer::new(), |_| {})
            .with_context(|| format!("{target}: no such IOMMU group"))?;
        return Ok(group);
    }
    let id: DeviceId = target.parse().map_err(|error| anyhow::anyhow!("{target:?}: {error}"))?;
    let device = root.device(id, Detail::Identity)?;
    match device.group {
        Some(group) => Ok(group),
        None => bail!("{id} has no IOMMU group; is the IOMMU off?"),
    }
}

/// Prints the holders as a table, and what the search could not read.
fn print(group: GroupId, holders: &[Holder], coverage: ScanCoverage) {
    if holders.is_empty() {
        println!("Found no process that holds group {group}.");
    } else {
        let rows: Vec<[String; 5]> = holders
            .iter()
            .map(|holder| {
                [
                    holder.pid.to_string(),
                    holder.command.to_string(),
                    holder.via.as_str().to_owned(),
                    or_dash(holder.container.pod_uid),
                    or_dash(holder.container.container_id),
                ]
            })
            .collect();
        print!("{}", layout(["PID", "COMMAND", "VIA", "POD", "CONTAINER"], &rows));
    }
    let ScanCoverage { processes, unreadable, unattributed, .. } = coverage;
    if unreadable > 0 {
        println!(
            "The list may be incomplete: {unreadable} of {processes} processes could not be read; run as root."
        );
    }
    if unattributed > 0 {
        println!(
            "The list may be incomplete: {unattributed} open VFIO device descriptors cannot be attributed to a device; \
             Linux 6.18 and newer can."
        );
    }
}
