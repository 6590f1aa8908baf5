//! Writes the counters and histograms.

use super::Families;
use crate::metrics::counters::{ALLOCATE_RESULTS, Counters, OUTCOMES, POLL_SOURCES, PROBE_RESULTS};
use std::fmt;
use vfio_plugin_policy::health::reason::Reason;

/// Writes what has happened since the start.
pub(super) fn encode(families: &mut Families<'_>, counters: &Counters, log_lines_lost: u64) -> fmt::Result {
    by_resource(families, counters)?;
    families.counter("probes", "Opens of groups to find out whether they are held, by result", |series| {
        let mut all = PROBE_RESULTS.into_iter().zip(&counters.probes);
        all.try_for_each(|(result, count)| series.count(&[("result", result)], count))
    })?;
    families.counter(
        "kubelet_polls",
        "Reads of the kubelet's assignments, by source and result",
        |series| {
            let mut sources = POLL_SOURCES.into_iter().zip(&counters.polls);
            sources.try_for_each(|(source, outcomes)| {
                let mut all = OUTCOMES.into_iter().zip(outcomes);
                all.try_for_each(|(result, count)| {
                    series.count(&[("source", source), ("result", result)], count)
                })
            })
        },
    )?;
    families.counter("log_lines_lost", "Lines of the log that were lost", |series| {
        series.value(&[], log_lines_lost)
    })?;
    families.histogram("allocate_duration", "Durations of Allocate calls", &counters.allocates)?;
    families.histogram("monitor_pass_duration", "Durations of passes over all devices", &counters.passes)?;
    families.histogram("probe_duration", "Durations of opens of groups", &counters.opens)
}

fn by_resource(families: &mut Families<'_>, counters: &Counters) -> fmt::Result {
    let resources = counters.resources();
    families.counter("allocations", "Allocate calls of the kubelet, by result", |series| {
        resources.iter().try_for_each(|(name, counters)| {
            let mut all = ALLOCATE_RESULTS.into_iter().zip(&counters.allocations);
            all.try_for_each(|(result, count)| series.count(&[("resource", name), ("result", result)], count))
        })
    })?;
    families.counter("registrations", "Calls of the kubelet's Register, by result", |series| {
        resources.iter().try_for_each(|(name, counters)| {
            let mut all = OUTCOMES.into_iter().zip(&counters.registrations);
            all.try_for_each(|(result, count)| series.count(&[("resource", name), ("result", result)], count))
        })
    })?;
    families.counter(
        "health_transitions",
        "Changes of devices' healths, by new health and reason",
        |series| {
            resources.iter().try_for_each(|(name, counters)| {
                let mut to = |health, reason, count| {
                    series.count(&[("resource", name), ("to", health), ("reason", reason)], count)
                };
                to("healthy", "", &counters.became_healthy)?;
                let mut all = Reason::CODES.into_iter().zip(&counters.became_unhealthy);
                all.try_for_each(|(reason, count)| to("unhealthy", reason, count))
            })
        },
    )
}
