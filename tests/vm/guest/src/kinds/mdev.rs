//! Mediated devices: the kernel's sample `mtty`, whose parent is no PCI function.

use super::{reason_names, says, who_says};
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

/// The two devices, removed when dropped.
struct Mdevs(#[expect(dead_code, reason = "unloaded after them")] [Module; 2]);

impl Mdevs {
    fn create() -> Result<Self> {
        // rmmod takes the last one first.
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

/// What the plugin calls the type: as the driver calls it for people.
fn by_type() -> Result<String> {
    let name = fs::read_to_string(format!("{TYPES}/{TYPE}/name"))?;
    Ok(format!("pci-0000.vfio/{}", name.trim().replace(' ', "_")))
}

/// There is no enable count: an open alone tells.
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
    says(&listed(FIRST)?, &expected)?;
    says(&listed(SECOND)?, &json!({"state": "free", "kind": "mdev", "resource": by_type}))?;

    let holder = Holder::start(&["full", &id, FIRST])?;
    let told = served.wait_for(FIRST, Some("Unhealthy"))?;
    says(&listed(FIRST)?, &json!({"state": "held", "evidence": "open"}))?;
    who_says(FIRST, holder.pid(), "group")?;
    let refusal = served.allocate(FIRST)?.err().context("given although a process has it")?;
    has_words(&refusal, &["FailedPrecondition", FIRST])?;
    reason_names(FIRST, holder.pid())?;
    ensure!(
        served.health(SECOND).as_deref() == Some("Healthy"),
        "the other one: {:?}",
        served.health(SECOND)
    );
    holder.kill();
    let freed = served.wait_for(FIRST, Some("Healthy"))?;
    says(&listed(FIRST)?, &json!({"state": "free"}))?;
    // Once it is a pod's it is opened no more, so that this comes last.
    let given = served.given("a.b/one", &[FIRST])?;
    given.is(("MDEV_PCI_RESOURCE_A_B_ONE", FIRST), &["/dev/vfio/vfio", &format!("/dev/vfio/{id}")])?;
    let _machine = Holder::start(&["full", &id, FIRST])?;

    Mdevs::remove(SECOND)?;
    served.wait_for(SECOND, None)?;
    wait_until("list has it no more", || Ok(listed(SECOND)?.is_null()))?;
    Ok(format!(": {by_type}; Unhealthy after {} ms, Healthy after {}", told.as_millis(), freed.as_millis()))
}

/// The same by its own node.
pub(crate) fn iommufd() -> Result<String> {
    let _mdevs = Mdevs::create()?;
    let by_type = by_type()?;
    let served = Served::of_pools("  - {backend: iommufd, select: [{driver: mtty}]}\n")?;
    served.wait_for(SECOND, Some("Healthy"))?;
    let node = cdev_of("mdev", SECOND)?;
    let holder = Holder::start(&["bound", &node])?;
    served.wait_for(SECOND, Some("Unhealthy"))?;
    who_says(SECOND, holder.pid(), "cdev")?;
    holder.kill();
    served.wait_for(SECOND, Some("Healthy"))?;
    let given = served.given(&by_type, &[SECOND])?;
    let variable = format!("MDEV_PCI_RESOURCE_{}", by_type.to_uppercase().replace(['/', '.'], "_"));
    given.is((&variable, SECOND), &["/dev/iommu", &node])?;
    let _machine = Holder::start(&["bound", given.node(1)?])?;
    Ok(format!(": {}", given.nodes.join(" ")))
}
