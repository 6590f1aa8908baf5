//! `who`: prints the processes that hold a device or group.

mod target;

use crate::commands::exit_code::{NEGATIVE, USAGE};
use crate::commands::table::{layout, or_dash};
use crate::commands::{stderr, stdout};
use crate::config::Config;
use crate::status::report::HolderReport;
use anyhow::{Context, bail};
use serde::Serialize;
use std::fmt::Write;
use target::TargetError;
use vfio_probe::{GroupId, Holder, Root, ScanCoverage};

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

/// Runs the command and returns the exit code: 0 if a holder was found, 1 if not, 64 if `target` is no name of a device or group,
/// or an ambiguous one.
///
/// # Errors
/// The device or group does not exist or has no group, /proc cannot be read, or standard output cannot be written.
pub(crate) fn run(config: &Config, target: &str, json: bool) -> anyhow::Result<u8> {
    let root = Root::open(&config.root)?;
    let group = match target::group_of(&root, &config.root, target) {
        Ok(group) => group,
        Err(TargetError::Usage(text)) => {
            stderr::print(format_args!("vfio-device-plugin: {text}"));
            return Ok(USAGE);
        }
        Err(error) => bail!("{error}"),
    };
    let mut holders: Vec<Holder> = Vec::new();
    let coverage = root
        .holders(&[group], &mut |holder| holders.push(holder))
        .context("cannot search /proc for holders")?;
    let found = !holders.is_empty();
    if json {
        let via = |holder: &Holder| HolderVia { holder: holder.into(), via: holder.via.as_str() };
        let holders = holders.iter().map(via).collect();
        let ScanCoverage { processes, unreadable, unattributed } = coverage;
        let report = WhoReport { iommu_group: group.0, holders, processes, unreadable, unattributed };
        stdout::print(&(serde_json::to_string(&report)? + "\n"))?;
    } else {
        stdout::print(&words(group, &holders, coverage))?;
    }
    Ok(if found { 0 } else { NEGATIVE })
}

/// Returns the holders as a table, and what the search could not read.
fn words(group: GroupId, holders: &[Holder], coverage: ScanCoverage) -> String {
    let mut text = if holders.is_empty() {
        format!("Found no process that holds group {group}.\n")
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
        layout(["PID", "COMMAND", "VIA", "POD", "CONTAINER"], &rows)
    };
    let ScanCoverage { processes, unreadable, unattributed } = coverage;
    if unreadable > 0 {
        let _ = writeln!(
            text,
            "The list may be incomplete: {unreadable} of {processes} processes could not be read; run as root."
        );
    }
    if unattributed > 0 {
        let _ = writeln!(
            text,
            "The list may be incomplete: {unattributed} open VFIO device descriptors cannot be attributed to a device; \
             Linux 6.18 and newer can."
        );
    }
    text
}
