//! `who`: which processes hold a device or group.

use crate::commands::table::{layout, or_dash};
use crate::config::Config;
use crate::status::report::HolderReport;
use anyhow::{Context, bail};
use serde::Serialize;
use vfio_probe::device::Detail;
use vfio_probe::{DeviceId, GroupId, Holder, Root, ScanCoverage};

#[derive(Serialize)]
struct Report {
    iommu_group: u32,
    holders: Vec<HolderRecord>,
    processes: u32,
    unreadable: u32,
    unattributed: u32,
}

#[derive(Serialize)]
struct HolderRecord {
    #[serde(flatten)]
    holder: HolderReport,
    via: &'static str,
}

/// Runs the command and returns the exit code: 0 if a holder is found, else 1.
pub(crate) fn run(config: &Config, target: &str, json: bool) -> anyhow::Result<u8> {
    let root = Root::open(&config.root)?;
    let group = group_of(&root, target)?;
    let mut holders: Vec<Holder> = Vec::new();
    let coverage = root
        .holders(&[group], &mut |holder| holders.push(holder))
        .context("cannot search /proc for holders")?;
    let found = !holders.is_empty();
    if json {
        let holders = holders
            .iter()
            .map(|holder| HolderRecord { holder: holder.into(), via: holder.via.as_str() })
            .collect();
        let ScanCoverage { processes, unreadable, unattributed } = coverage;
        let report = Report { iommu_group: group.0, holders, processes, unreadable, unattributed };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(group, &holders, coverage);
    }
    Ok(u8::from(!found))
}

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
        None => bail!("{id} is in no IOMMU group: is the IOMMU off?"),
    }
}

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
    let ScanCoverage { processes, unreadable, unattributed } = coverage;
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
