//! Holders of a function: a VM that opens the group, and a VM that opens the function's cdev.

use super::{expect_listed, expect_who, wait_for_reason};
use crate::host::{ALONE, Holder, cdev, group};
use crate::needs::{GROUP_NODES, missing};
use crate::plugin::{self, Served, has_words, listed};
use crate::scenarios::INTERVAL;
use anyhow::{Context, Result, ensure};
use serde_json::json;

/// What the kernel returns to the second opener.
const EBUSY: &str = "errno 16";
const EINVAL: &str = "errno 22";

pub(crate) fn legacy() -> Result<String> {
    let id = group(ALONE)?;
    let served = Served::of_pools(&format!(
        "  - {{resource: a.b/legacy, backend: legacy, select: [{{address: \"{ALONE}\"}}]}}\n"
    ))?;
    served.wait_for(ALONE, Some("Healthy"))?;
    let number: u32 = id.parse()?;
    let free = json!({"state": "free", "kind": "pci", "driver": "vfio-pci", "iommu_group": number, "viable": true,
        "resource": "a.b/legacy", "health": "Healthy", "holders": []});
    expect_listed(&listed(ALONE)?, &free)?;
    let allocation = served.allocation("a.b/legacy", &[ALONE])?;
    allocation.check(("PCI_RESOURCE_A_B_LEGACY", ALONE), &["/dev/vfio/vfio", &format!("/dev/vfio/{id}")])?;

    // Without an open device `enable` stays 0. An open or a search of /proc detects the holder, and Allocate opens.
    let holder = Holder::start(&["group", &id])?;
    let refusal = served.allocate(ALONE)?.err().context("allocated although its group is open")?;
    has_words(&refusal, &["FailedPrecondition", ALONE, &format!("pid {}", holder.pid())])?;
    served.wait_for(ALONE, Some("Unhealthy"))?;
    wait_for_reason(ALONE, holder.pid())?;
    expect_listed(&listed(ALONE)?, &json!({"state": "held", "evidence": "open"}))?;
    expect_who(ALONE, holder.pid(), "group")?;
    drop(holder);
    served.wait_for(ALONE, Some("Healthy"))?;

    let holder = Holder::full(ALONE)?;
    expect_listed(&listed(ALONE)?, &json!({"state": "held", "evidence": "holder"}))?;
    served.wait_for(ALONE, Some("Unhealthy"))?;
    expect_who(ALONE, holder.pid(), "group")?;
    drop(holder);
    served.wait_for(ALONE, Some("Healthy"))?;

    let _holder = Holder::start(&["device", &id, ALONE])?;
    expect_listed(&listed(ALONE)?, &json!({"state": "held", "evidence": "enable"}))?;
    served.wait_for(ALONE, Some("Unhealthy"))?;
    let refusal = served.allocate(ALONE)?.err().context("allocated although a process holds it")?;
    has_words(&refusal, &["FailedPrecondition", ALONE])?;
    Ok(String::new())
}

pub(crate) fn bound() -> Result<String> {
    let node = cdev(ALONE)?;
    let served = Served::of_pools(&format!(
        "  - {{resource: a.b/iommufd, backend: iommufd, select: [{{address: \"{ALONE}\"}}]}}\n"
    ))?;
    served.wait_for(ALONE, Some("Healthy"))?;
    expect_listed(&listed(ALONE)?, &json!({"state": "free", "kind": "pci", "resource": "a.b/iommufd"}))?;
    let allocation = served.allocation("a.b/iommufd", &[ALONE])?;
    allocation.check(("PCI_RESOURCE_A_B_IOMMUFD", ALONE), &["/dev/iommu", &node])?;

    let holder = Holder::start(&["bound", allocation.node(1)?])?;
    expect_listed(&listed(ALONE)?, &json!({"state": "held", "evidence": "enable"}))?;
    let reported = served.wait_for(ALONE, Some("Unhealthy"))?;
    expect_who(ALONE, holder.pid(), "cdev")?;
    wait_for_reason(ALONE, holder.pid())?;
    let refusal = served.allocate(ALONE)?.err().context("allocated although it is bound to an IOMMUFD")?;
    has_words(&refusal, &["FailedPrecondition", ALONE, &format!("pid {}", holder.pid())])?;
    // A second VM of either kind cannot open the device.
    refused(&["bound", &node], EINVAL)?;
    if missing(&[GROUP_NODES]).is_none() {
        refused(&["group", &group(ALONE)?], EBUSY)?;
    }
    holder.kill();
    served.wait_for(ALONE, Some("Healthy"))?;
    expect_listed(&listed(ALONE)?, &json!({"state": "free"}))?;
    let allocation = served.allocation("a.b/iommufd", &[ALONE])?;
    let _next = Holder::start(&["bound", allocation.node(1)?])?;
    Ok(format!(": {}; Unhealthy after {} ms", allocation.nodes.join(" "), reported.as_millis()))
}

/// Such a process is visible by its descriptor only: `enable` stays 0, and the kernel lets other processes open the
/// group.
pub(crate) fn open() -> Result<String> {
    let node = cdev(ALONE)?;
    let served = Served::of_pools(&format!(
        "  - {{resource: a.b/open, backend: iommufd, select: [{{address: \"{ALONE}\"}}]}}\n"
    ))?;
    served.wait_for(ALONE, Some("Healthy"))?;
    let holder = Holder::start(&["cdev", &node])?;
    expect_who(ALONE, holder.pid(), "cdev")?;
    std::thread::sleep(INTERVAL * 3);
    ensure!(served.health(ALONE).as_deref() == Some("Healthy"), "Unhealthy although other opens succeed");
    expect_listed(&listed(ALONE)?, &json!({"state": "free"}))?;
    let next = Holder::start(&["bound", served.allocation("a.b/open", &[ALONE])?.node(1)?])?;
    let who = plugin::json(&["who", ALONE, "--json"])?;
    let pids = plugin::holders(&who);
    ensure!([holder.pid(), next.pid()].iter().all(|pid| pids.contains(&u64::from(*pid))), "who says {who}");
    Ok(String::new())
}

/// Checks that a holder cannot start, with this errno.
fn refused(words: &[&str], errno: &str) -> Result<()> {
    match Holder::start(words) {
        Ok(_) => anyhow::bail!("holder {words:?} succeeded"),
        Err(error) => has_words(&error.to_string(), &[errno]),
    }
}
