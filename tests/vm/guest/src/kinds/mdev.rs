//! Mediated devices of the kernel's sample driver `mtty`. Their parent is not a PCI function.

use super::{expect_listed, expect_who, wait_for_reason};
use crate::host::{Holder, Module, cdev_of, group_of, wait_until};
use crate::plugin::{Served, has_words, listed};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;

const FIRST: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
const SECOND: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002";
const TYPES: &str = "/sys/class/mdev_bus/mtty/mdev_supported_types";
const TYPE: &str = "mtty-1";

/// The two devices. They are removed when dropped.
struct Mdevs(#[expect(dead_code, reason = "unloaded after them")] [Module; 2]);

impl Mdevs {
    fn create() -> Result<Self> {
        // rmmod needs the reverse order.
        let mdev = Module::load("mdev", "")?;
        let modules = [Module::load("mtty", "")?, mdev];
        let mdevs = Self(modules);
        for uuid in [FIRST, SECOND] {
            fs::write(format!("{TYPES}/{TYPE}/create"), uuid).with_context(|| format!("create {uuid}"))?;
        }
        Ok(mdevs)
    }

    fn remove(uuid: &str) -> Result<()> {
        fs::write(format!("/sys/bus/mdev/devices/{uuid}/remove"), "1")
            .with_context(|| format!("remove {uuid}"))
    }
}

impl Drop for Mdevs {
    fn drop(&mut self) {
        for uuid in [FIRST, SECOND] {
            if Path::new(&format!("/sys/bus/mdev/devices/{uuid}")).exists()
                && let Err(error) = Self::remove(uuid)
            {
                println!("{error:#}");
            }
        }
    }
}

/// Returns the resource of the type, which the plugin names as the driver does.
fn by_type() -> Result<String> {
    let name = fs::read_to_string(format!("{TYPES}/{TYPE}/name"))?;
    Ok(format!("pci-0000.vfio/{}", name.trim().replace(' ', "_")))
}

/// A mediated device has no `enable`: only an open detects a holder.
pub(crate) fn groups() -> Result<String> {
    let _mdevs = Mdevs::create()?;
    let (id, by_type) = (group_of("mdev", FIRST)?, by_type()?);
    let served = Served::of_pools(&format!(
        "  - {{resource: a.b/one, select: [{{address: {FIRST}}}]}}\n  - {{select: [{{driver: mtty}}]}}\n"
    ))?;
    for uuid in [FIRST, SECOND] {
        served.wait_for(uuid, Some("Healthy"))?;
    }
    let number: u32 = id.parse()?;
    let expected = json!({"state": "free", "evidence": "open", "kind": "mdev", "driver": "mtty", "viable": true,
        "iommu_group": number, "numa_node": null, "vendor": "0000", "resource": "a.b/one"});
    expect_listed(&listed(FIRST)?, &expected)?;
    expect_listed(&listed(SECOND)?, &json!({"state": "free", "kind": "mdev", "resource": by_type}))?;

    let holder = Holder::start(&["full", &id, FIRST])?;
    let reported = served.wait_for(FIRST, Some("Unhealthy"))?;
    expect_listed(&listed(FIRST)?, &json!({"state": "held", "evidence": "open"}))?;
    expect_who(FIRST, holder.pid(), "group")?;
    let refusal = served.allocate(FIRST)?.err().context("allocated although a process has it")?;
    has_words(&refusal, &["FailedPrecondition", FIRST])?;
    wait_for_reason(FIRST, holder.pid())?;
    ensure!(
        served.health(SECOND).as_deref() == Some("Healthy"),
        "the other device is {:?}",
        served.health(SECOND)
    );
    holder.kill();
    let freed = served.wait_for(FIRST, Some("Healthy"))?;
    expect_listed(&listed(FIRST)?, &json!({"state": "free"}))?;
    // Last, because an assigned device is never opened.
    let allocation = served.allocation("a.b/one", &[FIRST])?;
    allocation
        .check(("MDEV_PCI_RESOURCE_A_B_ONE", FIRST), &["/dev/vfio/vfio", &format!("/dev/vfio/{id}")])?;
    let _vm = Holder::start(&["full", &id, FIRST])?;

    Mdevs::remove(SECOND)?;
    served.wait_for(SECOND, None)?;
    wait_until("list does not have it any more", || Ok(listed(SECOND)?.is_null()))?;
    Ok(format!(
        ": {by_type}; Unhealthy after {} ms, Healthy after {}",
        reported.as_millis(),
        freed.as_millis()
    ))
}

/// The same with the devices' cdevs.
pub(crate) fn iommufd() -> Result<String> {
    let _mdevs = Mdevs::create()?;
    let by_type = by_type()?;
    let served = Served::of_pools("  - {backend: iommufd, select: [{driver: mtty}]}\n")?;
    served.wait_for(SECOND, Some("Healthy"))?;
    let node = cdev_of("mdev", SECOND)?;
    let holder = Holder::start(&["bound", &node])?;
    served.wait_for(SECOND, Some("Unhealthy"))?;
    expect_who(SECOND, holder.pid(), "cdev")?;
    holder.kill();
    served.wait_for(SECOND, Some("Healthy"))?;
    let allocation = served.allocation(&by_type, &[SECOND])?;
    let variable = format!("MDEV_PCI_RESOURCE_{}", by_type.to_uppercase().replace(['/', '.'], "_"));
    allocation.check((&variable, SECOND), &["/dev/iommu", &node])?;
    let _vm = Holder::start(&["bound", allocation.node(1)?])?;
    Ok(format!(": {}", allocation.nodes.join(" ")))
}
