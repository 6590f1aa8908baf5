//! Who may have a function: a machine of the old kind by its group, one of the new kind by the function's own node.

use super::{reason_names, says, who_says};
use crate::host::{ALONE, Holder, cdev, group};
use crate::needs::{GROUP_NODES, missing};
use crate::plugin::{self, Served, has_words, listed};
use crate::scenarios::INTERVAL;
use anyhow::{Context, Result, ensure};
use serde_json::json;

/// The kernel's answers to who comes second.
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
    says(&listed(ALONE)?, &free)?;
    let given = served.given("a.b/legacy", &[ALONE])?;
    given.is(("PCI_RESOURCE_A_B_LEGACY", ALONE), &["/dev/vfio/vfio", &format!("/dev/vfio/{id}")])?;

    // Without a device there is no enable count: only an open tells, and Allocate opens.
    let holder = Holder::start(&["group", &id])?;
    let refusal = served.allocate(ALONE)?.err().context("given although its group is open")?;
    has_words(&refusal, &["FailedPrecondition", ALONE, &format!("pid {}", holder.pid())])?;
    served.wait_for(ALONE, Some("Unhealthy"))?;
    reason_names(ALONE, holder.pid())?;
    says(&listed(ALONE)?, &json!({"state": "held", "evidence": "open"}))?;
    who_says(ALONE, holder.pid(), "group")?;
    drop(holder);
    served.wait_for(ALONE, Some("Healthy"))?;

    let holder = Holder::full(ALONE)?;
    says(&listed(ALONE)?, &json!({"state": "held", "evidence": "enable"}))?;
    served.wait_for(ALONE, Some("Unhealthy"))?;
    who_says(ALONE, holder.pid(), "group")?;
    drop(holder);
    served.wait_for(ALONE, Some("Healthy"))?;

    let _holder = Holder::start(&["device", &id, ALONE])?;
    says(&listed(ALONE)?, &json!({"state": "held", "evidence": "enable"}))?;
    served.wait_for(ALONE, Some("Unhealthy"))?;
    let refusal = served.allocate(ALONE)?.err().context("given although a process has it")?;
    has_words(&refusal, &["FailedPrecondition", ALONE])?;
    Ok(String::new())
}

pub(crate) fn bound() -> Result<String> {
    let node = cdev(ALONE)?;
    let served = Served::of_pools(&format!(
        "  - {{resource: a.b/iommufd, backend: iommufd, select: [{{address: \"{ALONE}\"}}]}}\n"
    ))?;
    served.wait_for(ALONE, Some("Healthy"))?;
    says(&listed(ALONE)?, &json!({"state": "free", "kind": "pci", "resource": "a.b/iommufd"}))?;
    let given = served.given("a.b/iommufd", &[ALONE])?;
    given.is(("PCI_RESOURCE_A_B_IOMMUFD", ALONE), &["/dev/iommu", &node])?;

    let holder = Holder::start(&["bound", given.node(1)?])?;
    says(&listed(ALONE)?, &json!({"state": "held", "evidence": "enable"}))?;
    let told = served.wait_for(ALONE, Some("Unhealthy"))?;
    who_says(ALONE, holder.pid(), "cdev")?;
    reason_names(ALONE, holder.pid())?;
    let refusal = served.allocate(ALONE)?.err().context("given although it is bound to an IOMMUFD")?;
    has_words(&refusal, &["FailedPrecondition", ALONE, &format!("pid {}", holder.pid())])?;
    // Either kind of machine that comes second finds it taken.
    refused(&["bound", &node], EINVAL)?;
    if missing(&[GROUP_NODES]).is_none() {
        refused(&["group", &group(ALONE)?], EBUSY)?;
    }
    holder.kill();
    served.wait_for(ALONE, Some("Healthy"))?;
    says(&listed(ALONE)?, &json!({"state": "free"}))?;
    let given = served.given("a.b/iommufd", &[ALONE])?;
    let _next = Holder::start(&["bound", given.node(1)?])?;
    Ok(format!(": {}; Unhealthy after {} ms", given.nodes.join(" "), told.as_millis()))
}

/// Nothing but its descriptor tells of such a process: no count rises, and the kernel lets others pass.
pub(crate) fn open() -> Result<String> {
    let node = cdev(ALONE)?;
    let served = Served::of_pools(&format!(
        "  - {{resource: a.b/open, backend: iommufd, select: [{{address: \"{ALONE}\"}}]}}\n"
    ))?;
    served.wait_for(ALONE, Some("Healthy"))?;
    let holder = Holder::start(&["cdev", &node])?;
    who_says(ALONE, holder.pid(), "cdev")?;
    std::thread::sleep(INTERVAL * 3);
    ensure!(served.health(ALONE).as_deref() == Some("Healthy"), "it keeps nobody out");
    says(&listed(ALONE)?, &json!({"state": "free"}))?;
    let next = Holder::start(&["bound", served.given("a.b/open", &[ALONE])?.node(1)?])?;
    let who = plugin::json(&["who", ALONE, "--json"])?;
    let pids = plugin::holders(&who);
    ensure!([holder.pid(), next.pid()].iter().all(|pid| pids.contains(&u64::from(*pid))), "who says {who}");
    Ok(String::new())
}

/// Fails unless a holder cannot begin, for this reason.
fn refused(words: &[&str], errno: &str) -> Result<()> {
    match Holder::start(words) {
        Ok(_) => anyhow::bail!("{words:?} was let in"),
        Err(error) => has_words(&error.to_string(), &[errno]),
    }
}
