//! Tests each kind of holder and device: what `list`, `who`, the kubelet and Allocate report.

mod holders;
mod mdev;
mod numa;
mod nvidia;
mod sriov;

use crate::host::wait_until;
use crate::needs::{
    FAKEID, GROUP_NODES, IGB_DRIVER, IOMMUFD, MTTY, Need, SECOND_NUMA_NODE, SRIOV_NIC, VFIO_SRIOV,
};
use crate::plugin::{holders, json, listed};
use crate::scenarios::Test;
use anyhow::{Result, ensure};
use serde_json::Value;

/// The tests, with the needs of each.
pub(crate) const ALL: &[(&str, &[Need], Test)] = &[
    ("kind_legacy_holder", &[GROUP_NODES], holders::legacy),
    ("kind_iommufd_holder", &[IOMMUFD], holders::bound),
    ("kind_cdev_open_but_not_bound", &[IOMMUFD], holders::open),
    ("kind_mediated_devices", &[GROUP_NODES, MTTY], mdev::groups),
    // Without CONFIG_VFIO_GROUP the kernel has no group for a mediated device, and the plugin reports the device as
    // Unhealthy.
    ("kind_mediated_devices_by_iommufd", &[GROUP_NODES, IOMMUFD, MTTY], mdev::iommufd),
    ("kind_nvidia_gpus", &[GROUP_NODES, FAKEID], nvidia::gpus),
    ("kind_virtual_functions", &[GROUP_NODES, SRIOV_NIC, IGB_DRIVER], sriov::virtual_functions),
    ("kind_physical_function_on_vfio_pci", &[GROUP_NODES, SRIOV_NIC, VFIO_SRIOV], sriov::physical_function),
    ("kind_numa_node_1", &[GROUP_NODES, SECOND_NUMA_NODE], numa::second_node),
];

/// Checks that a device of `list` has these values.
fn expect_listed(device: &Value, expected: &Value) -> Result<()> {
    for (key, value) in expected.as_object().into_iter().flatten() {
        ensure!(device[key] == *value, "{key} is not {value}: list has {device}");
    }
    Ok(())
}

/// Checks that `who` names this process alone, and the kind of its descriptor.
fn expect_who(device: &str, pid: u32, via: &str) -> Result<()> {
    let who = json(&["who", device, "--json"])?;
    ensure!(holders(&who) == [u64::from(pid)] && who["holders"][0]["via"] == via, "who prints {who}");
    Ok(())
}

/// Waits until the reported reason names this process. A refusal does not wait for the scan of all processes.
fn wait_for_reason(device: &str, pid: u32) -> Result<()> {
    let pid = format!("pid {pid} ");
    wait_until(&format!("the reason of {device} names {pid}"), || {
        Ok(listed(device)?["reason"].as_str().is_some_and(|reason| reason.contains(&pid)))
    })?;
    Ok(())
}
