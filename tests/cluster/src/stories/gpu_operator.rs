//! The image in a DaemonSet as NVIDIA's GPU operator deploys its sandbox device plugin
//! (`assets/state-sandbox-device-plugin/0500_daemonset.yaml` of NVIDIA/gpu-operator): no arguments, no probes, no host pids, and
//! three mounts.

use serde_json::json;

use super::foreign::{hold, release};
use super::replaced::expect_same_holders;
use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Result};

/// The figures are right without pod resources and without a view of the host's processes, also after a restart of the container,
/// which keeps no state.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    let mount = |name: &str, path: &str| {
        (
            json!({"name": name, "mountPath": path}),
            json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}),
        )
    };
    let (mounts, volumes): (Vec<_>, Vec<_>) = [
        mount("device-plugin", "/var/lib/kubelet/device-plugins"),
        mount("vfio", "/dev/vfio"),
        mount("cdi-root", "/var/run/cdi"),
    ]
    .into_iter()
    .unzip();
    let labels = json!({"app": plugin::NAME, "app.kubernetes.io/name": plugin::NAME});
    let daemonset = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": plugin::NAME, "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "priorityClassName": "system-node-critical",
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": plugin::NAME,
                        "image": cluster.plugin().image,
                        "imagePullPolicy": "IfNotPresent",
                        "securityContext": {"privileged": true},
                        "volumeMounts": mounts,
                    }],
                    "volumes": volumes,
                },
            },
        },
    });
    cluster.deploy_plugin(&daemonset.to_string())?;
    pods::create(cluster, &[pods::vm("vm", 2)])?;
    let before = Step::new("a VM with two devices runs", 6, 2, 2).settle(cluster)?;

    let holder = hold(cluster, &before.free_group()?)?;
    cluster.node().run("kill -KILL $(pgrep -f '^/vfio-device-plugin')")?;
    Step::new("the container starts again, with a foreign holder", 5, 2, 3).settle(cluster)?;
    release(cluster, &holder)?;
    let after = Step::new("the process has ended", 6, 2, 2).settle(cluster)?;
    expect_same_holders(&before, &after)?;

    pods::delete(cluster, &["vm"])?;
    pods::create(cluster, &[pods::vm("all", 6)])?;
    Step::new("a VM has all devices", 6, 6, 6).settle(cluster)?;
    Ok(())
}
