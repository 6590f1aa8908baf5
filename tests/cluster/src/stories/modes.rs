//! Both modes of the manifests, with a VM and with a foreign holder that opens a device as a VM does.

use std::time::Duration;

use super::foreign::release;
use super::step::{State, Step};
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
    let holder = hold(cluster, &state)?;
    Step::new(&format!("{mode}: a process of the host holds a device"), 5, 1, 2).settle(cluster)?;
    release(cluster, &holder)?;
    Step::new(&format!("{mode}: the process has ended"), 6, 1, 1).settle(cluster)?;
    Ok(())
}

/// Starts a process of the host that holds a free device, and returns its id once it does. The unprivileged plugin detects it by
/// the function's `enable` count.
fn hold(cluster: &Cluster, state: &State) -> Result<String> {
    let group = state.free_group()?;
    let mut groups = state.node.groups.iter().filter(|other| other.number == group);
    let device = groups.next().and_then(|group| group.devices.first()).ok_or("the group has no device")?;
    let script = format!(
        "rm -f /run/holder; PCI_RESOURCE_HOST={device} setsid holder hold >/run/holder 2>&1 </dev/null & echo $!"
    );
    let pid = cluster.node().run(&script)?.trim().to_owned();
    cluster.wait("the process holds the device", Duration::from_secs(60), |cluster| {
        let said = cluster.node().run("cat /run/holder")?;
        if said.contains("held") { Ok(Some(())) } else { Err(format!("it says {said:?}").into()) }
    })?;
    Ok(pid)
}
