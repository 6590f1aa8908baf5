//! E: the kubelet and containerd are killed or away while VMs run.

use super::plugin;
use super::pods;
use super::replaced::expect_same_holders;
use super::step::{State, Step};
use crate::{Cluster, Result};

const VMS: [&str; 2] = ["vm-1", "vm-2"];

/// No pod starts again, assignments stay, and the node's status never shows fewer devices for long.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    pods::create(cluster, &VMS.map(|name| pods::vm(name, 2)))?;
    let before = Step::new("two VMs with two devices each run", 6, 4, 4).settle(cluster)?;

    for (event, script) in [
        ("the kubelet was killed", "pkill -KILL -x kubelet"),
        ("containerd was killed", "pkill -KILL -x containerd"),
        ("both were killed", "pkill -KILL -x kubelet; pkill -KILL -x containerd"),
    ] {
        cluster.node().run(script)?;
        unchanged(cluster, &before, event)?;
    }

    cluster.node().run("service stop kubelet")?;
    let state = Step::new("the kubelet is away", 6, 4, 4).kubelet_away().settle(cluster)?;
    expect_same_holders(&before, &state)?;
    cluster.node().run("service stop containerd")?;
    let state = Step::new("containerd is away too", 6, 4, 4).kubelet_away().settle(cluster)?;
    expect_same_holders(&before, &state)?;
    cluster.node().run("service start containerd; service start kubelet")?;
    unchanged(cluster, &before, "both are back")?;

    pods::create(cluster, &[pods::vm("vm-3", 2)])?;
    Step::new("a third VM runs", 6, 6, 6).settle(cluster)?;
    Ok(())
}

/// The same processes hold the same devices, the same pods have them, and no container was started again.
fn unchanged(cluster: &Cluster, before: &State, event: &str) -> Result {
    let after = Step::new(event, 6, 4, 4).settle(cluster)?;
    expect_same_holders(before, &after)?;
    if after.node.kubelet != before.node.kubelet {
        return Err(format!("{:?} became {:?}", before.node.kubelet, after.node.kubelet).into());
    }
    for name in VMS {
        let restarts = pods::restarts(cluster, name)?;
        if restarts > 0 {
            return Err(format!("{name} was started again {restarts} times").into());
        }
    }
    Ok(())
}
