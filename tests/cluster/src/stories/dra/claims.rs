//! Pods with claims, and a process of the host that holds a device.

use std::collections::BTreeSet;
use std::time::Instant;

use super::foreign::{hold, hold_device, release};
use super::install::{self, expect, install, uninstall, vm};
use super::timing::{LIMIT, after, ssh, wait_tainted};
use super::view::{self, device_name};
use super::watch::Watch;
use super::{COMMAND, access, pods};
use crate::{Cluster, Result};

/// Pods with claims hold devices, a foreign holder keeps its device from them, and a request by a resource's name is served.
pub(in super::super) fn run(cluster: &mut Cluster) -> Result {
    install(cluster)?;
    access::check(cluster)?;
    install::create_example(cluster)?;
    let state = expect(cluster, "the pod of the example holds a device", (6, 0, 1, 1))?;
    let memory = cluster.node().run(&format!("grep VmRSS /proc/$(pgrep -ox {COMMAND})/status"))?;
    cluster
        .step(&format!("the driver's memory: {}", memory.split_whitespace().collect::<Vec<_>>().join(" ")));

    let (group, address) = state.free_group()?;
    let foreign = device_name(&address);
    let slices = Watch::start(cluster, "resourceslices");
    let starts = Watch::start(cluster, "pods");
    // The search for holders alone detects this one: a group is open, and no device is.
    let start = Instant::now();
    let holder = hold(cluster, &group)?;
    let stored = wait_tainted(cluster, &slices, &foreign, start, true)?;
    cluster.step(&format!(
        "a process opens {foreign}'s group alone: the taint is stored {}",
        after(start, stored)
    ));
    let start = Instant::now();
    release(cluster, &holder)?;
    let removed = wait_tainted(cluster, &slices, &foreign, start, false)?;
    cluster.step(&format!("it ends: the taint is removed {}", after(start, removed)));

    let start = Instant::now();
    let holder = hold_device(cluster, &address)?;
    cluster.step(&format!("process {holder} of the host holds {foreign} as a VM does"));
    let stored = wait_tainted(cluster, &slices, &foreign, start, true)?;
    let state = expect(cluster, "the device has a taint", (6, 1, 1, 2))?;
    let taint = state.api.published.get(&foreign).cloned().flatten().unwrap_or_default();
    cluster.step(&format!("the taint is {taint}, stored {}", after(start, stored)));
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
    let removed = wait_tainted(cluster, &slices, &foreign, start, false)?;
    cluster.wait("the waiting pod runs", LIMIT, |_| Ok(running(&starts, "waits")))?;
    let state = expect(cluster, "the process ends, and the waiting pod runs", (6, 0, 6, 6))?;
    cluster.step(&format!(
        "after the release: the taint is removed {}, the pod is bound {}, and it runs {}",
        after(start, removed),
        after(start, bound(&starts, "waits")),
        after(start, running(&starts, "waits")),
    ));
    for pod in ["other", "waits"] {
        if let Some(bound) = bound(&starts, pod) {
            cluster
                .step(&format!("    from its binding, {pod} runs {}", after(bound, running(&starts, pod))));
        }
    }
    cluster.step(&format!("    a command over ssh takes {:.1?} of these times", ssh(cluster)?));
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

/// Returns when the scheduler had bound a pod.
fn bound(pods: &Watch, name: &str) -> Option<Instant> {
    pods.first(name, |pod| pod["spec"]["nodeName"].is_string())
}

/// Returns when a pod ran.
fn running(pods: &Watch, name: &str) -> Option<Instant> {
    pods.first(name, |pod| pod["status"]["phase"] == "Running")
}
