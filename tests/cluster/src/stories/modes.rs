//! Both modes of the manifests, with a VM and with a foreign holder that opens a device as a VM does.

use super::foreign::{hold_device, release};
use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Result};

/// The figures are the same in both modes. Only the privileged plugin names holders.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_unprivileged(cluster)?;
    pods::create(cluster, &[pods::vm("vm", 1)])?;
    story(cluster, "unprivileged", false)?;
    plugin::deploy_probing(cluster, &[])?;
    story(cluster, "probing", true)
}

fn story(cluster: &Cluster, mode: &str, names_holders: bool) -> Result {
    let state = Step::new(&format!("{mode}: a VM runs"), 6, 1, 1).settle(cluster)?;
    plugin::check_list(cluster, &state, names_holders)?;
    // The unprivileged plugin detects it by the function's `enable` count.
    let holder = hold_device(cluster, &state.free_device()?)?;
    Step::new(&format!("{mode}: a process of the host holds a device"), 5, 1, 2).settle(cluster)?;
    release(cluster, &holder)?;
    Step::new(&format!("{mode}: the process has ended"), 6, 1, 1).settle(cluster)?;
    Ok(())
}
