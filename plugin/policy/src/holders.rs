//! Describes the holders of a device, and what a search for them could not see, in words.

use std::fmt;
use vfio_probe::{Holder, PidNamespace, ScanCoverage};

/// Returns holders in words: `pid 4711 (qemu-system-x86), pod <uid>; pid 4712 (vfio-user)`.
///
/// The text is for people. A process chooses its command itself, so a program must not parse the text or compare it.
pub fn describe(holders: &[Holder]) -> String {
    in_words(holders.iter().map(|holder| (holder.pid, &holder.command, holder.container.pod_uid)))
}

/// Returns holders in words, from pid, command and the pod's uid.
pub fn in_words(
    holders: impl Iterator<Item = (u32, impl fmt::Display, Option<impl fmt::Display>)>,
) -> String {
    let mut words = String::new();
    // A String accepts every write.
    let _ = write_in_words(&mut words, holders);
    words
}

/// Writes holders in words, as [`in_words`] returns them. Without a holder it says that the process could not be found,
/// because a held device always has one.
///
/// # Errors
/// As `out` fails.
pub fn write_in_words(
    out: &mut impl fmt::Write,
    holders: impl Iterator<Item = (u32, impl fmt::Display, Option<impl fmt::Display>)>,
) -> fmt::Result {
    let mut separator = "";
    for (pid, command, pod_uid) in holders {
        write!(out, "{separator}pid {pid} ({command})")?;
        if let Some(uid) = pod_uid {
            write!(out, ", pod {uid}")?;
        }
        separator = "; ";
    }
    if separator.is_empty() {
        out.write_str("a process that could not be found")?;
    }
    Ok(())
}

/// Returns what a search for holders could not see, one sentence each. Empty if the search was complete: only then no holder
/// found means that no process holds the group.
pub fn coverage_gaps(coverage: &ScanCoverage) -> Vec<String> {
    let ScanCoverage { processes, unreadable, unattributed, unsearched, pid_namespace, .. } = *coverage;
    let mut gaps = Vec::new();
    match pid_namespace {
        PidNamespace::Host => {}
        PidNamespace::Foreign => gaps.push(
            "this is not the host's pid namespace, and processes outside of it are invisible; run in the host's (hostPID)".to_owned(),
        ),
        PidNamespace::Unknown => gaps.push(
            "/proc does not show whether it has the processes of the host's pid namespace; run as root, with the host's /proc"
                .to_owned(),
        ),
    }
    if unreadable > 0 {
        gaps.push(format!("{unreadable} of {processes} processes could not be read; run as root"));
    }
    if unsearched > 0 {
        gaps.push(format!("{unsearched} processes were not searched within the budget; try again"));
    }
    if unattributed > 0 {
        gaps.push(format!(
            "{unattributed} open VFIO device descriptors cannot be attributed to a device; Linux 6.18 and newer can"
        ));
    }
    if gaps.is_empty() && !coverage.is_complete() {
        gaps.push("the search was not complete".to_owned());
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gap_of_a_search_is_named() {
        let mut whole = ScanCoverage::default();
        (whole.processes, whole.pid_namespace) = (9, PidNamespace::Host);
        let but = |change: fn(&mut ScanCoverage)| {
            let mut partial = whole;
            change(&mut partial);
            partial
        };
        assert!(coverage_gaps(&whole).is_empty());
        for (partial, expected) in [
            (but(|partial| partial.unreadable = 2), "2 of 9 processes could not be read"),
            (but(|partial| partial.unsearched = 3), "3 processes were not searched"),
            (but(|partial| partial.unattributed = 4), "4 open VFIO device descriptors"),
            (but(|partial| partial.pid_namespace = PidNamespace::Foreign), "not the host's pid namespace"),
            (but(|partial| partial.pid_namespace = PidNamespace::Unknown), "does not show"),
        ] {
            let gaps = coverage_gaps(&partial);
            assert!(gaps.len() == 1 && gaps[0].contains(expected), "{gaps:?}");
            assert!(!partial.is_complete());
        }
    }
}
