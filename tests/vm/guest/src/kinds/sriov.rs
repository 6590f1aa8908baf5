//! SR-IOV: virtual functions of a NIC, and a physical function that is bound to vfio-pci itself.

use super::{expect_listed, expect_who};
use crate::host::{Holder, bind, bind_to, driver_of, group, sriov_nic, unbind, wait_until};
use crate::plugin::{Served, listed};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use vfio_probe::device::Detail;
use vfio_probe::{Root, Sriov};

/// Lets users of vfio-pci enable the virtual functions of a physical function.
const ENABLE_SRIOV: &str = "/sys/module/vfio_pci/parameters/enable_sriov";

/// Two enabled virtual functions. When dropped, they are disabled and the physical function is unbound.
struct Functions {
    physical: String,
    virtuals: Vec<String>,
}

impl Functions {
    fn on(physical: String) -> Result<Self> {
        let mut functions = Self { physical, virtuals: Vec::new() };
        functions.set(2)?;
        for number in 0..2 {
            let link = format!("/sys/bus/pci/devices/{}/virtfn{number}", functions.physical);
            let link = fs::read_link(&link).context(link)?;
            functions.virtuals.push(link.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        Ok(functions)
    }

    fn set(&self, count: u32) -> Result<()> {
        let file = format!("/sys/bus/pci/devices/{}/sriov_numvfs", self.physical);
        fs::write(&file, count.to_string()).context(file)
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        let off = self.virtuals.iter().try_for_each(|address| unbind(address)).and_then(|()| self.set(0));
        if let Err(error) = off.and_then(|()| unbind(&self.physical)) {
            println!("cannot disable the virtual functions of {}: {error:#}", self.physical);
        }
    }
}

fn role(address: &str) -> Result<(Sriov, Option<String>)> {
    let device = Root::host()?.device(address.parse()?, Detail::Full)?;
    Ok((device.sriov, device.parent.map(|parent| parent.to_string())))
}

/// The physical function is bound to the host's driver.
pub(crate) fn virtual_functions() -> Result<String> {
    let nic = sriov_nic().context("no NIC")?;
    bind_to(&nic, "igb")?;
    let functions = Functions::on(nic.clone())?;
    for address in &functions.virtuals {
        bind(address)?;
        ensure!(role(address)? == (Sriov::Virtual, Some(nic.clone())), "{address}: {:?}", role(address)?);
    }
    ensure!(role(&nic)? == (Sriov::Physical(2), None), "{nic}: {:?}", role(&nic)?);
    let served = Served::of_pools(&format!("  - {{resource: a.b/vf, select: [{{parent: \"{nic}\"}}]}}\n"))?;
    let [first, second] = functions.virtuals.as_slice() else { anyhow::bail!("not two of them") };
    for address in [first, second] {
        served.wait_for(address, Some("Healthy"))?;
        expect_listed(&listed(address)?, &json!({"state": "free", "kind": "pci", "resource": "a.b/vf"}))?;
    }
    ensure!(served.health(&nic).is_none() && listed(&nic)?.is_null(), "the host's own NIC is offered");
    let allocation = served.allocation("a.b/vf", &[first])?;
    let node = format!("/dev/vfio/{}", group(first)?);
    allocation.check(("PCI_RESOURCE_A_B_VF", first), &["/dev/vfio/vfio", &node])?;
    let holder = Holder::full(first)?;
    served.wait_for(first, Some("Unhealthy"))?;
    expect_listed(&listed(first)?, &json!({"state": "held", "evidence": "holder"}))?;
    expect_who(first, holder.pid(), "group")?;
    if group(first)? != group(second)? {
        ensure!(
            served.health(second).as_deref() == Some("Healthy"),
            "the other: {:?}",
            served.health(second)
        );
    }
    holder.kill();
    served.wait_for(first, Some("Healthy"))?;
    Ok(format!(": {nic} has {first} and {second}"))
}

/// The physical function and its virtual functions are bound to vfio-pci.
pub(crate) fn physical_function() -> Result<String> {
    let nic = sriov_nic().context("no NIC")?;
    bind(&nic)?;
    fs::write(ENABLE_SRIOV, "Y").context(ENABLE_SRIOV)?;
    let functions = Functions::on(nic.clone())?;
    let [first, second] = functions.virtuals.as_slice() else { anyhow::bail!("not two of them") };
    // `vfio_pci_bus_notifier` sets their driver_override before they are matched.
    wait_until("both virtual functions are bound to vfio-pci", || {
        Ok([first, second].iter().all(|one| driver_of(one).as_deref() == Some("vfio-pci")))
    })?;
    ensure!(role(&nic)? == (Sriov::Physical(2), None), "{nic}: {:?}", role(&nic)?);
    ensure!(role(first)? == (Sriov::Virtual, Some(nic.clone())), "{first}: {:?}", role(first)?);
    let served = Served::of_pools(&format!(
        "  - {{resource: a.b/vf, select: [{{parent: \"{nic}\"}}]}}\n\
         \x20 - {{resource: a.b/pf, select: [{{address: \"{nic}\"}}]}}\n"
    ))?;
    for (address, resource) in [(&nic, "a.b/pf"), (first, "a.b/vf"), (second, "a.b/vf")] {
        served.wait_for(address, Some("Healthy"))?;
        expect_listed(&listed(address)?, &json!({"state": "free", "resource": resource}))?;
    }
    let holder = Holder::full(&nic)?;
    served.wait_for(&nic, Some("Unhealthy"))?;
    expect_listed(&listed(&nic)?, &json!({"state": "held", "evidence": "holder"}))?;
    expect_who(&nic, holder.pid(), "group")?;
    if group(&nic)? != group(first)? {
        expect_listed(&listed(first)?, &json!({"state": "free"}))?;
    }
    holder.kill();
    served.wait_for(&nic, Some("Healthy"))?;
    Ok(format!(": {nic} has {first} and {second}"))
}
