//! The plugin in the cluster: its manifests as shipped, and what its commands print.

use std::time::Duration;

use serde_json::Value;

use super::step::State;
use crate::{Cluster, Result};

/// The name of the DaemonSet and of its container.
pub(super) const NAME: &str = "vfio-device-plugin";
/// A second name of the image, for upgrades.
pub(super) const NEW_IMAGE: &str = "docker.io/library/vfio-device-plugin:new";
/// The time for the plugin's list to be as the sources.
const LIST: Duration = Duration::from_secs(120);
/// deploy/daemonset-probing.yaml.
const PROBING: &str = include_str!("../../../../deploy/daemonset-probing.yaml");
/// deploy/daemonset.yaml.
const UNPRIVILEGED: &str = include_str!("../../../../deploy/daemonset.yaml");

/// Applies the privileged manifest with further options of `serve`, and waits until the plugin is ready.
///
/// # Errors
///
/// Fails if the API server refuses it, or the plugin is not ready at the deadline.
pub(super) fn deploy_probing(cluster: &Cluster, options: &[&str]) -> Result {
    cluster.deploy_plugin(&with_options(PROBING, options)?)
}

/// Applies the privileged manifest with a readiness probe that begins 20 s after the container's start, and waits until the plugin
/// is ready. The kubelet then has 20 s to start a killed container again before another pod is ready.
///
/// # Errors
///
/// As `deploy_probing`.
pub(super) fn deploy_slowly_ready(cluster: &Cluster) -> Result {
    cluster.deploy_plugin(&slowly_ready()?)
}

fn slowly_ready() -> Result<String> {
    const PROBE: &str = "          readinessProbe:\n";
    let (before, after) = PROBING.split_once(PROBE).ok_or("the manifest has no readiness probe")?;
    Ok(format!("{before}{PROBE}            initialDelaySeconds: 20\n{after}"))
}

/// Applies the unprivileged manifest and waits until the plugin is ready.
///
/// # Errors
///
/// As `deploy_probing`.
pub(super) fn deploy_unprivileged(cluster: &Cluster) -> Result {
    cluster.deploy_plugin(UNPRIVILEGED)
}

/// Adds options to the container's arguments.
fn with_options(manifest: &str, options: &[&str]) -> Result<String> {
    const FIRST: &str = "            - serve\n";
    let (before, after) = manifest.split_once(FIRST).ok_or("the manifest has no argument `serve`")?;
    let lines: String = options.iter().map(|option| format!("            - {option}\n")).collect();
    Ok(format!("{before}{FIRST}{lines}{after}"))
}

/// Runs a command of the program in the plugin's pod and returns its output.
///
/// # Errors
///
/// Fails if the command does.
pub(super) fn execute(cluster: &Cluster, command: &[&str]) -> Result<String> {
    let pod = cluster.plugin_pod()?;
    let before = ["exec", "--namespace", "kube-system", pod.as_str(), "--", "/vfio-device-plugin"];
    cluster.kubectl_text(&[&before, command].concat())
}

/// Waits until `list --json` in the plugin's pod says about each assigned device what the sources say: the pod, its holder and
/// its health. Without `names_holders`, the plugin must name none. On a busy host `serve` may answer `list` too late, which then
/// says what it finds by itself.
///
/// # Errors
///
/// Fails at the deadline with the first device of which it says something else.
pub(super) fn check_list(cluster: &Cluster, state: &State, names_holders: bool) -> Result {
    cluster.wait("the plugin's list is as the sources", LIST, |cluster| {
        compare_list(cluster, state, names_holders).map(Some)
    })
}

fn compare_list(cluster: &Cluster, state: &State, names_holders: bool) -> Result {
    let list: Value = serde_json::from_str(&execute(cluster, &["list", "--json"])?)?;
    let pods = state.node.kubelet.as_ref().map_err(Clone::clone)?;
    for (pod, device) in
        pods.iter().flat_map(|(pod, devices)| devices.iter().map(move |device| (pod, device)))
    {
        let entry =
            list["devices"].as_array().into_iter().flatten().find(|entry| entry["address"] == **device);
        let entry = entry.ok_or_else(|| format!("list does not show {device}"))?;
        let assigned = format!(
            "{}/{}",
            entry["assignment"]["namespace"].as_str().unwrap_or_default(),
            entry["assignment"]["pod"].as_str().unwrap_or_default()
        );
        let mut groups = state.node.groups.iter().filter(|group| group.devices.contains(device));
        let holders = groups.next().map(|group| group.holders.as_slice()).unwrap_or_default();
        let expected: Vec<(u64, &str)> = holders
            .iter()
            .filter(|_| names_holders)
            .map(|holder| (holder.pid, holder.pod.as_str()))
            .collect();
        let listed: Vec<(u64, &str)> = entry["holders"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|holder| {
                (holder["pid"].as_u64().unwrap_or_default(), holder["pod_uid"].as_str().unwrap_or_default())
            })
            .collect();
        if assigned != *pod || entry["health"] != "Healthy" || listed != expected {
            return Err(format!("{device} of {pod} with holders {expected:?} is listed as {entry}").into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_the_command_in_both_manifests() {
        for manifest in [PROBING, UNPRIVILEGED] {
            let changed = with_options(manifest, &["--busy=unhealthy"]).unwrap();
            assert!(
                changed.contains("            - serve\n            - --busy=unhealthy\n            - --log")
            );
        }
        assert!(with_options("args: []", &[]).is_err());
        assert!(slowly_ready().is_ok());
    }
}
