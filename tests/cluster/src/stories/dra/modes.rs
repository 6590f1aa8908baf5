//! Both modes of the driver's manifests.

use super::install::{PROBING, UNPRIVILEGED, expect, install, uninstall, vm};
use super::pods;
use crate::{Cluster, Result};

/// Without privilege the driver publishes the same, and prepares claims. Claims last over each change of the mode.
pub(in super::super) fn run(cluster: &mut Cluster) -> Result {
    install(cluster)?;
    pods::create(cluster, &vm("vm", 2))?;
    let before = expect(cluster, "a VM has two devices", (6, 0, 2, 2))?;

    cluster.deploy_plugin(UNPRIVILEGED)?;
    expect(cluster, "the mode `unprivileged` publishes the same", (6, 0, 2, 2))?;
    pods::create(cluster, &vm("other", 1))?;
    expect(cluster, "and prepares a claim", (6, 0, 3, 3))?;
    pods::delete(cluster, &["other"])?;
    expect(cluster, "and ends it", (6, 0, 2, 2))?;

    cluster.deploy_plugin(PROBING)?;
    let after = expect(cluster, "the mode `probing` is back", (6, 0, 2, 2))?;
    let (had, has) = (before.holders_of_pods(), after.holders_of_pods());
    if had != has {
        return Err(format!("processes {had:?} held the VM's groups, and {has:?} do").into());
    }
    uninstall(cluster)
}
