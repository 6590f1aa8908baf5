//! Writes the series of the DRA driver.

use super::Families;
use crate::driver_status::DriverStatus;
use std::fmt;

/// Writes the state of the driver. What is not known has no series.
pub(super) fn encode(families: &mut Families<'_>, driver: &DriverStatus) -> fmt::Result {
    let DriverStatus { driver: name, registered, slices, api_server, calls, .. } = driver;
    let labels = [("driver", name.as_str())];
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let mut gauge = |name: &str, help: &str, value: Option<i64>| match value {
        Some(value) => families.gauge(name, help, |series| series.gauge(&labels, value)),
        None => Ok(()),
    };
    let help = "Whether the kubelet has registered the DRA driver and is connected to it";
    gauge("dra_registered", help, Some(i64::from(*registered)))?;
    let help = "Whether the API server answered the driver's latest request";
    gauge("dra_api_server_reachable", help, api_server.reachable.map(i64::from))?;
    gauge("dra_slices", "Stored ResourceSlices of this node", Some(count(slices.count)))?;
    gauge("dra_slice_devices", "Devices in the stored ResourceSlices", Some(count(slices.devices)))?;
    let help = "Whether the API server stores the ResourceSlices as they should be";
    gauge("dra_slices_stored", help, slices.stored.map(i64::from))?;
    gauge("dra_slice_generation", "Generation of the pool in the stored ResourceSlices", slices.generation)?;
    let written = slices.last_write.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    gauge("dra_slice_last_write_timestamp_seconds", "When a ResourceSlice was written last", written)?;
    families.counter(
        "dra_slice_write_failures",
        "Rounds of writes of ResourceSlices that failed",
        |series| series.value(&labels, slices.failed_writes),
    )?;
    families.counter("dra_claims_prepared", "Claims that the kubelet had prepared, by result", |series| {
        series.value(&[labels[0], ("result", "prepared")], calls.prepared)?;
        series.value(&[labels[0], ("result", "refused")], calls.refused)
    })?;
    families.counter("dra_claims_unprepared", "Claims that the kubelet had unprepared, by result", |series| {
        series.value(&[labels[0], ("result", "unprepared")], calls.unprepared)?;
        series.value(&[labels[0], ("result", "kept")], calls.kept)
    })
}
