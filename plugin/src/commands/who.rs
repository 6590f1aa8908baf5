//! `who`: prints the processes that hold a device or group.

mod target;

use crate::commands::escape::escaped;
use crate::commands::exit_code::{NEGATIVE, UNKNOWN, USAGE};
use crate::commands::table::{Table, or_dash};
use crate::commands::{stderr, stdout};
use crate::config::Config;
use crate::status::client::{self, ANSWER_TIMEOUT};
use crate::status::report::{ClaimReport, CoverageReport, HolderReport, StatusReport};
use anyhow::{Context, bail};
use serde::Serialize;
use std::fmt::Write;
use target::TargetError;
use vfio_plugin_policy::holders::coverage_gaps;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, GroupId, Holder, InPod, Root, ScanCoverage};

/// The columns of the table. A container's id is known by its first characters.
const TABLE: Table<5> =
    Table { heading: ["PID", "COMMAND", "VIA", "POD", "CONTAINER"], optional: &[2], last: 13 };

/// The output of `who --json`.
#[derive(Serialize)]
struct WhoReport {
    /// The group that was searched.
    iommu_group: u32,
    /// The holders that were found.
    holders: Vec<HolderVia>,
    /// The prepared claims that have devices of the group; null if no `serve` answers.
    claims: Option<Vec<ClaimReport>>,
    /// How much the search could see.
    #[serde(flatten)]
    coverage: CoverageReport,
}

/// One holder, with the descriptor that holds the group.
#[derive(Serialize)]
struct HolderVia {
    #[serde(flatten)]
    holder: HolderReport,
    /// `group`, `device` or `cdev`.
    via: &'static str,
}

/// Runs the command and returns the exit code: 0 if a holder was found, 1 if no process holds the group, [`UNKNOWN`] if that is not
/// known, 64 if `target` is no name of a device or group, or an ambiguous one. `columns` is the width of the table.
///
/// # Errors
/// The device or group does not exist or has no group, /proc cannot be read, or standard output cannot be written.
pub(crate) fn run(config: &Config, target: &str, json: bool, columns: Option<usize>) -> anyhow::Result<u8> {
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
    let claims = client::fetch(&config.run_dir, ANSWER_TIMEOUT).ok().map(|report| claims(report, group));
    let is_held = || root.peek(group, &mut Buffer::new()).is_ok_and(|peek| peek == Peek::LooksHeld);
    if json {
        let via = |holder: &Holder| HolderVia { holder: holder.into(), via: holder.via.as_str() };
        let holders = holders.iter().map(via).collect();
        let report = WhoReport { iommu_group: group.0, holders, claims, coverage: coverage.into() };
        stdout::print(&(serde_json::to_string(&report)? + "\n"))?;
    } else {
        let mut text = words(group, &holders, coverage, is_held, columns);
        for claim in claims.iter().flatten() {
            let _ = writeln!(text, "{}", in_words(claim));
        }
        stdout::print(&text)?;
    }
    Ok(match (found, coverage.is_complete()) {
        (true, _) => 0,
        (false, true) => NEGATIVE,
        (false, false) => UNKNOWN,
    })
}

/// Returns the prepared claims that have devices of a group.
fn claims(report: StatusReport, group: GroupId) -> Vec<ClaimReport> {
    let mut claims: Vec<ClaimReport> = Vec::new();
    for device in report.devices.into_iter().filter(|device| device.iommu_group == Some(group.0)) {
        claims.extend(device.claim.filter(|claim| !claims.contains(claim)));
    }
    claims
}

/// Returns a claim in words.
fn in_words(claim: &ClaimReport) -> String {
    let pods = claim.pods.iter().map(|pod| match &pod.name {
        Some(name) => format!("{}/{name} ({})", claim.namespace, pod.uid),
        None => pod.uid.clone(),
    });
    let mut pods: Vec<String> = pods.collect();
    pods.extend(claim.for_any_pod.then(|| "any pod".to_owned()));
    let pods = if pods.is_empty() { "no pod".to_owned() } else { pods.join(", ") };
    let text = format!("Prepared {claim} ({}) has the group, for {pods}.", claim.uid);
    escaped(&text).into_owned()
}

/// Returns the holders as a table, and what the search could not read. Never says that no process holds the group if that is not known.
fn words(
    group: GroupId,
    holders: &[Holder],
    coverage: ScanCoverage,
    is_held: impl FnOnce() -> bool,
    columns: Option<usize>,
) -> String {
    let mut text = if holders.is_empty() && coverage.is_complete() {
        format!("Found no process that holds group {group}.\n")
    } else if holders.is_empty() && is_held() {
        format!("Group {group} looks held (enable), and its holder could not be found.\n")
    } else if holders.is_empty() {
        format!(
            "Unknown: no holder of group {group} was found, and the search could not see all processes.\n"
        )
    } else {
        let rows: Vec<[String; 5]> = holders
            .iter()
            .map(|holder| {
                [
                    holder.pid.to_string(),
                    holder.command.to_string(),
                    holder.via.as_str().to_owned(),
                    pod_cell(holder),
                    or_dash(holder.container.container_id),
                ]
            })
            .collect();
        TABLE.layout(&rows, columns)
    };
    for gap in coverage_gaps(&coverage) {
        let _ = writeln!(text, "The list may be incomplete: {gap}.");
    }
    text
}

/// The pod's uid, or `unknown` for the sandbox of a pod that its cgroup does not name.
fn pod_cell(holder: &Holder) -> String {
    match (holder.container.pod_uid, holder.container.in_pod) {
        (None, InPod::Unknown) => "unknown".to_owned(),
        (uid, _) => or_dash(uid),
    }
}
