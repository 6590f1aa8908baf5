//! An upgrade of the plugin and the way back, by the DaemonSet's rolling update, while VMs run.

use std::time::Duration;

use super::replaced::expect_same_holders;
use super::step::{PREFIX, State, Step};
use super::watch::{Watch, line};
use super::{plugin, pods};
use crate::{Cluster, Result};

const VMS: [&str; 2] = ["vm-1", "vm-2"];
/// The time for the new pod to replace the old one.
const ROLLOUT: Duration = Duration::from_secs(600);

/// The VMs keep their devices, and the next one finds what is free. If the manifest lets two pods run at once, allocatable must
/// not change at any time.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    pods::create(cluster, &VMS.map(|name| pods::vm(name, 2)))?;
    let before = Step::new("two VMs with two devices each run", 6, 4, 4).settle(cluster)?;
    // The same program under another name: a rolling update does not look into images.
    cluster.node().run(&format!(
        "ctr -n k8s.io images tag --force {} {}",
        plugin::image(),
        plugin::NEW_IMAGE
    ))?;

    let change = [
        "set",
        "image",
        "daemonset/vfio-device-plugin",
        &format!("vfio-device-plugin={}", plugin::NEW_IMAGE),
    ];
    roll(cluster, &before, "the upgrade", &change)?;
    roll(cluster, &before, "the downgrade", &["rollout", "undo", "daemonset/vfio-device-plugin"])?;

    pods::create(cluster, &[pods::vm("vm-3", 2)])?;
    Step::new("a third VM runs", 6, 6, 6).settle(cluster)?;
    Ok(())
}

/// Changes the DaemonSet, waits for the new pod and compares.
fn roll(cluster: &Cluster, before: &State, name: &str, change: &[&str]) -> Result {
    let old = cluster.plugin_pod()?;
    let watch = Watch::start(cluster, &name.replace(' ', "-"))?;
    let namespace = ["--namespace", "kube-system"];
    cluster.kubectl_text(&[change, &namespace].concat())?;
    cluster.wait(&format!("{name} is complete"), ROLLOUT, |cluster| {
        cluster.kubectl_text(
            &[&["rollout", "status", "daemonset/vfio-device-plugin", "--timeout=5s"], namespace.as_slice()]
                .concat(),
        )?;
        Ok((cluster.plugin_pod()? != old).then_some(()))
    })?;
    let after = Step::new(&format!("after {name}"), 6, 4, 4).settle(cluster)?;
    expect_same_holders(before, &after)?;
    let changes = watch.changes(PREFIX)?;
    cluster.step(&format!("capacity/allocatable in the API server meanwhile: {}", line(&changes)));
    if plugin::hands_over() && changes.iter().any(|figures| *figures != (6, 6)) {
        return Err(format!("{name} changed the node's status: {}", line(&changes)).into());
    }
    Ok(())
}
