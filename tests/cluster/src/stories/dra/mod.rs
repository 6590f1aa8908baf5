//! The driver for Dynamic Resource Allocation, as its manifests install it.

mod access;
mod install;
mod view;
mod watch;

use std::collections::BTreeSet;
use std::time::Instant;

use super::foreign::{hold, release};
use super::pods;
use crate::{Cluster, Result};
use install::{expect, install, uninstall, vm};
use view::device_name;
use watch::Watch;

/// The command name of the driver, of which the kernel keeps 15 characters.
const COMMAND: &str = "vfio-device-plu";

/// Pods with claims hold devices, a foreign holder keeps its device from them, and a request by a resource's name is served.
pub(super) fn claims(cluster: &mut Cluster) -> Result {
    install(cluster)?;
    access::check(cluster)?;
    install::create_example(cluster)?;
    let state = expect(cluster, "the pod of the example holds a device", (6, 0, 1, 1))?;
    let memory = cluster.node().run(&format!("grep VmRSS /proc/$(pgrep -ox {COMMAND})/status"))?;
    cluster
        .step(&format!("the driver's memory: {}", memory.split_whitespace().collect::<Vec<_>>().join(" ")));

    let (group, address) = state.free_group()?;
    let foreign = device_name(&address);
    let start = Instant::now();
    let slices = Watch::start(cluster, "resourceslices");
    let starts = Watch::start(cluster, "pods");
    let holder = hold(cluster, &group)?;
    cluster.step(&format!("process {holder} of the host holds {foreign}"));
    let state = expect(cluster, "the device has a taint", (6, 1, 1, 2))?;
    let taint = state.api.published.get(&foreign).cloned().flatten().unwrap_or_default();
    cluster.step(&format!(
        "the taint is {taint}, stored {}",
        after(start, tainted(&slices, &foreign, start, true))
    ));
    if taint != format!("{}/held=holder.{holder}", view::DRIVER) {
        return Err(format!("the taint is {taint}").into());
    }

    pods::create(cluster, &vm("other", 1))?;
    expect(cluster, "the next pod has another device", (6, 1, 2, 3))?;
    pods::create(cluster, &vm("three", 3))?;
    let state = expect(cluster, "a pod has all others", (6, 1, 5, 6))?;
    if state.devices("other").contains(&foreign) || state.devices("three").contains(&foreign) {
        return Err("a pod has the device that the process holds".into());
    }
    pods::create(cluster, &vm("waits", 1))?;
    let words = pods::wait_unschedulable(cluster, "waits", "claims")?;
    cluster.step(&format!("one more pod waits, and the scheduler says: {words}"));

    let start = Instant::now();
    release(cluster, &holder)?;
    let state = expect(cluster, "the process ends, and the waiting pod runs", (6, 0, 6, 6))?;
    cluster.step(&format!(
        "after the release: the taint is removed {}, the pod is bound {}, and it runs {}",
        after(start, tainted(&slices, &foreign, start, false)),
        after(start, starts.first("waits", |pod| pod["spec"]["nodeName"].is_string())),
        after(start, starts.first("waits", |pod| pod["status"]["phase"] == "Running")),
    ));
    if state.devices("waits") != [foreign] {
        return Err(format!("the pod has {:?}", state.devices("waits")).into());
    }

    pods::delete(cluster, &["three"])?;
    expect(cluster, "three devices are free again", (6, 0, 3, 3))?;
    pods::create(cluster, &[pods::vm("unchanged", 2)])?;
    let state = expect(cluster, "a pod that requests the resource by its name holds two", (6, 0, 5, 5))?;
    let log = cluster.kubectl_text(&["logs", "unchanged"])?;
    let opened: BTreeSet<String> = log
        .lines()
        .filter_map(|line| line.strip_prefix("held ")?.split(' ').next().map(device_name))
        .collect();
    if opened != state.devices("unchanged").into_iter().collect() {
        return Err(format!("it says {log}, and the kubelet shows {:?}", state.devices("unchanged")).into());
    }
    drop((slices, starts));
    uninstall(cluster)
}

/// Returns when a device first had a taint, or none, after a moment.
fn tainted(slices: &Watch, device: &str, since: Instant, has_taint: bool) -> Option<Instant> {
    let moments = slices.moments(since);
    let is = |taint: &Option<String>| taint.is_some() == has_taint;
    let found =
        moments.iter().find(|moment| moment.time >= since && moment.devices.get(device).is_some_and(is))?;
    Some(found.time)
}

/// Describes how long after a moment something was.
fn after(start: Instant, time: Option<Instant>) -> String {
    time.map_or_else(
        || "at an unknown time".into(),
        |time| format!("after {:.1?}", time.duration_since(start)),
    )
}
