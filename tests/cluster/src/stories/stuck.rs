//! D: a pod is deleted by force, and its process is stuck in the kernel with the device.

use std::time::Duration;

use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Result};

/// A file system that the story freezes, on a file of the node.
const MOUNT: &str =
    "set -e; modprobe loop; truncate -s 32M /var/frozen.img; mke2fs -q -t ext4 /var/frozen.img
    mkdir -p /mnt/frozen; mount -o loop /var/frozen.img /mnt/frozen";
/// Ends the story's traces on the node, whatever exists of them.
const UNMOUNT: &str =
    "fsfreeze -u /mnt/frozen 2>/dev/null; umount -l /mnt/frozen 2>/dev/null; rm -f /var/frozen.img; true";

/// The next pod is refused with the holder's name instead of a VM that cannot start, then the device is not offered, and after
/// the process has ended it is.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    cluster.node().run(MOUNT)?;
    let outcome = story(cluster);
    cluster.node().run(UNMOUNT)?;
    outcome
}

fn story(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    let mut stuck = pods::pod("stuck", &[pods::container("vm", 1, &["stuck", "/frozen/file"])]);
    stuck["spec"]["volumes"] = serde_json::json!([{"name": "frozen", "hostPath": {"path": "/mnt/frozen"}}]);
    stuck["spec"]["containers"][0]["volumeMounts"] =
        serde_json::json!([{"name": "frozen", "mountPath": "/frozen"}]);
    pods::create(cluster, &[stuck, pods::vm("five", 5)])?;
    let state = Step::new("two VMs have all devices", 6, 6, 6).settle(cluster)?;
    let device = state.devices("stuck").concat();

    pods::create(cluster, &[pods::vm("next", 1)])?;
    pods::wait_unschedulable(cluster, "next", pods::RESOURCE)?;
    cluster.node().run("fsfreeze -f /mnt/frozen")?;
    cluster.wait("the process is stuck in the kernel", Duration::from_secs(60), |cluster| {
        cluster.node().run("grep -qs '(holder) D' /proc/[0-9]*/task/[0-9]*/stat").map(Some)
    })?;
    cluster.kubectl_text(&["delete", "pod", "stuck", "--force", "--grace-period=0"])?;
    let words = pods::wait_refused(cluster, "next")?;
    cluster.step(&format!("the scheduler placed the next pod at once, and it was refused: {words}"));
    if !words.contains(&device) || !words.contains("holder") {
        return Err(format!("the refusal does not name {device} and its holder").into());
    }
    Step::new("the stuck process holds a device of no pod", 5, 5, 6).settle(cluster)?;

    pods::create(cluster, &[pods::vm("after", 1)])?;
    pods::wait_unschedulable(cluster, "after", pods::RESOURCE)?;
    cluster.node().run("fsfreeze -u /mnt/frozen")?;
    cluster.step("the file system is thawed, and the process ends");
    let state = Step::new("the waiting pod has the device", 6, 6, 6).settle(cluster)?;
    if state.devices("after").concat() != device {
        return Err(format!("it has {:?} instead of {device}", state.devices("after")).into());
    }
    Ok(())
}
