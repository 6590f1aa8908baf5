//! B: the plugin's pod is replaced while VMs run, with the default policy and with the one that caused the incident.

use std::time::Duration;

use super::step::{State, Step};
use super::{plugin, pods};
use crate::sources::Disagreement;
use crate::{Cluster, Result};

const VMS: [&str; 4] = ["vm-1", "vm-2", "vm-3", "vm-4"];
/// The time for a new pod of the plugin to be ready.
const REPLACED: Duration = Duration::from_secs(600);

/// The VMs keep their devices, and what is free stays free for the next VM. With `--busy unhealthy` the scheduler counts a
/// negative number of free devices.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    pods::create(cluster, &VMS.map(|name| pods::vm(name, 1)))?;
    let before = Step::new("four VMs run", 6, 4, 4).settle(cluster)?;

    replace(cluster)?;
    let after = Step::new("the plugin's pod was replaced", 6, 4, 4).settle(cluster)?;
    expect_same_holders(&before, &after)?;
    pods::create(cluster, &[pods::vm("vm-5", 1)])?;
    let before = Step::new("a fifth VM runs", 6, 5, 5).settle(cluster)?;

    plugin::deploy_probing(cluster, &["--busy=unhealthy"])?;
    let incident = Disagreement::Free { free: -4, openable: 1 };
    let after = Step::new("with --busy=unhealthy", 1, 5, 5).disagrees(vec![incident]).settle(cluster)?;
    expect_same_holders(&before, &after)?;
    pods::create(cluster, &[pods::vm("vm-6", 1)])?;
    let words = pods::wait_unschedulable(cluster, "vm-6", pods::RESOURCE)?;
    cluster.step(&format!("a sixth VM waits, and the scheduler says: {words}"));

    plugin::deploy_probing(cluster, &[])?;
    Step::new("with the default policy, the sixth VM runs", 6, 6, 6).settle(cluster)?;
    Ok(())
}

/// Deletes the plugin's pod and waits until another one is ready.
pub(super) fn replace(cluster: &Cluster) -> Result {
    let old = cluster.plugin_pod()?;
    cluster.kubectl_text(&["delete", "pod", "--namespace", "kube-system", &old])?;
    cluster.step(&format!("{old} is deleted"));
    cluster.wait("another pod of the plugin is ready", REPLACED, |cluster| {
        let rollout = [
            "rollout",
            "status",
            "daemonset/vfio-device-plugin",
            "--namespace",
            "kube-system",
            "--timeout=5s",
        ];
        cluster.kubectl_text(&rollout)?;
        let new = cluster.plugin_pod()?;
        Ok((new != old).then_some(()))
    })
}

/// Fails unless the same processes hold the same groups.
pub(super) fn expect_same_holders(before: &State, after: &State) -> Result {
    if before.holders() == after.holders() {
        return Ok(());
    }
    Err(format!("processes {:?} held the groups before, {:?} after", before.holders(), after.holders())
        .into())
}
