//! The plugin's metrics, scraped over the pods' network.

use super::foreign::{hold, release};
use super::step::{State, Step};
use super::{plugin, pods};
use crate::{Cluster, Result};

/// The metrics have the figures of the three sources, with a VM and a foreign holder.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    pods::create(cluster, &[pods::vm("vm", 2)])?;
    let state = Step::new("a VM with two devices runs", 6, 2, 2).settle(cluster)?;
    expect(
        cluster,
        &[("capacity", 6), ("allocatable", 6), ("assigned", 2), ("foreign_held", 0), ("openable", 4)],
    )?;

    let holder = hold(cluster, &state.free_group()?)?;
    let state = Step::new("a process of the host holds a device", 5, 2, 3).settle(cluster)?;
    expect(
        cluster,
        &[("capacity", 6), ("allocatable", 5), ("assigned", 2), ("foreign_held", 1), ("openable", 3)],
    )?;
    expect_assignments(cluster, &state)?;
    release(cluster, &holder)
}

/// Checks metrics `vfio_resource_NAME`, and that nothing is promised that cannot be opened.
fn expect(cluster: &Cluster, values: &[(&str, i64)]) -> Result {
    let text = scrape(cluster)?;
    for (name, expected) in values {
        let value = value(&text, &format!("vfio_resource_{name}"))?;
        if value != *expected {
            return Err(format!("vfio_resource_{name} is {value}, not {expected}").into());
        }
    }
    let schedulable = value(&text, "vfio_resource_schedulable")?;
    let openable = value(&text, "vfio_resource_openable")?;
    if schedulable != openable {
        return Err(format!("{schedulable} are schedulable and {openable} openable").into());
    }
    cluster.step(&format!("scraped from the pod's address: {values:?}, {schedulable} schedulable"));
    Ok(())
}

/// Checks that the pod of each assigned device is named.
fn expect_assignments(cluster: &Cluster, state: &State) -> Result {
    let text = scrape(cluster)?;
    for device in state.devices("vm") {
        let (address, pod) = (format!("device=\"{device}\""), "pod=\"vm\"");
        let named = |line: &&str| {
            line.starts_with("vfio_device_assignment_info{") && line.contains(&address) && line.contains(pod)
        };
        text.lines().find(named).ok_or_else(|| format!("no metric names vm for {device}"))?;
    }
    Ok(())
}

/// Reads /metrics at the pod's address, from the node. The node has no HTTP client.
fn scrape(cluster: &Cluster) -> Result<String> {
    let name = cluster.plugin_pod()?;
    let pod = cluster.kubectl(&["get", "pod", "--namespace", "kube-system", &name])?;
    let address = pod["status"]["podIP"].as_str().ok_or("the plugin's pod has no address")?;
    let script = format!(
        "timeout 30 bash -c 'exec 3<>/dev/tcp/{address}/9440; printf \"GET /metrics HTTP/1.1\\r\\nHost: plugin\\r\\nConnection: close\\r\\n\\r\\n\" >&3; cat <&3'"
    );
    let answer = cluster.node().run(&script)?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(answer)
    } else {
        Err(format!("the plugin answered {answer:?}").into())
    }
}

/// Returns the value of the one sample of a metric.
fn value(text: &str, name: &str) -> Result<i64> {
    let mut samples =
        text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once(' '));
    let (_, value) = samples.next().ok_or_else(|| format!("there is no metric {name}"))?;
    value.trim().parse().map_err(|_| format!("{name} has the value {value}").into())
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn sample_is_found_by_its_whole_name() {
        let text = "vfio_resource_free_time{resource=\"a\"} 1\nvfio_resource_free{resource=\"a\"} -4\n";
        assert_eq!(value(text, "vfio_resource_free").unwrap(), -4);
        assert!(value(text, "vfio_resource").is_err());
    }
}
