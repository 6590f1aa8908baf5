//! Q: QEMU in a pod without privileges, with the device that the plugin's variable names.

use std::time::Duration;

use serde_json::json;

use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Result};

/// A guest without a disk: the firmware lists the PCI functions on the debug console and goes on waiting.
const QEMU: [&str; 17] = [
    "exec",
    "/usr/bin/qemu-system-x86_64",
    "-machine",
    "q35",
    "-accel",
    "tcg",
    "-m",
    "64",
    "-nodefaults",
    "-display",
    "none",
    "-chardev",
    "stdio,id=firmware",
    "-device",
    "isa-debugcon,iobase=0x402,chardev=firmware",
    "-boot",
    "menu=off",
];

/// The guest finds the device, and `list` names QEMU and its pod.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    let mut container = pods::container("vm", 1, &QEMU);
    container["image"] = "cluster/qemu:1".into();
    container["securityContext"] =
        json!({"privileged": false, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    pods::create(cluster, &[pods::pod("vm", &[container])])?;
    let state = Step::new("QEMU runs", 6, 1, 1).settle(cluster)?;

    // The guest reads the ids from the function itself: those of QEMU's device `edu`, which this QEMU does not have. The node's
    // kernel alone has others (tests/vm/fakeid).
    let found = cluster.wait("the firmware finds the function", Duration::from_secs(600), |cluster| {
        let log = cluster.kubectl_text(&["logs", "vm"])?;
        let line = log.lines().find(|line| line.contains("id=1234:11e8")).map(str::to_owned);
        line.map(Some).ok_or_else(|| format!("it says {log:?}").into())
    })?;
    cluster.step(&format!("the guest's firmware says: {found}"));
    let holders = state.node.groups.iter().flat_map(|group| &group.holders);
    let commands: Vec<&str> = holders.map(|holder| holder.command.as_str()).collect();
    if commands != ["qemu-system-x86"] {
        return Err(format!("the groups are held by {commands:?}").into());
    }
    plugin::check_list(cluster, &state, true)
}
