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
    holders: Vec<Seen>,
    processes: u32,
    unreadable: u32,
    unattributed: u32,
}

#[derive(Serialize)]
struct Seen {
    #[serde(flatten)]
    holder: HolderReport,
    via: &'static str,
}

/// Runs the command.
pub(crate) fn run(config: &Config, target: &str, json: bool) -> anyhow::Result<u8> {
    let root = Root::open(&config.root)?;
    let group = group_of(&root, target)?;
    let mut holders: Vec<Holder> = Vec::new();
    let looked =
        root.holders(&[group], &mut |holder| holders.push(holder)).context("cannot look for holders")?;
    let found = !holders.is_empty();
    if json {
        let holders =
            holders.iter().map(|holder| Seen { holder: holder.into(), via: holder.via.as_str() }).collect();
        let ScanCoverage { processes, unreadable, unattributed } = looked;
        let report = Report { iommu_group: group.0, holders, processes, unreadable, unattributed };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(group, &holders, looked);
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

fn print(group: GroupId, holders: &[Holder], looked: ScanCoverage) {
    if holders.is_empty() {
        println!("No process was found that holds group {group}.");
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
        print!("{}", layout(["PID", "COMMAND", "BY", "POD", "CONTAINER"], &rows));
    }
    let ScanCoverage { processes, unreadable, unattributed } = looked;
    if unreadable > 0 {
        println!(
            "{unreadable} of {processes} processes could not be read: not found is not nobody (try as root)."
        );
    }
    if unattributed > 0 {
        println!(
            "{unattributed} VFIO device descriptors are open whose device this kernel does not tell (6.18 does)."
        );
    }
}
