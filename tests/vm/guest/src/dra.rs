//! The DRA driver on real groups, with a stand-in for the API server and the kubelet's calls.

use crate::host::{ALONE, BESIDE, FIRST, Holder, SECOND, group, wait_until};
use crate::plugin::{Process, forget_assignments, has_words};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tokio::runtime::Runtime;
use vfio_sim_node::dra::{ApiServer, DraKubelet};

/// The kubelet's root directory.
const KUBELET_ROOT: &str = "/tmp/kubelet-root";
const CDI_DIR: &str = "/tmp/cdi";

/// A driver whose slices are stored.
struct Driver {
    /// Ends first.
    _serve: Process,
    runtime: Runtime,
    api: ApiServer,
    kubelet: DraKubelet,
}

impl Driver {
    fn start() -> Result<Self> {
        forget_assignments();
        for directory in [KUBELET_ROOT, CDI_DIR] {
            let _ = fs::remove_dir_all(directory);
        }
        fs::create_dir_all(Path::new(KUBELET_ROOT).join("plugins_registry"))?;
        let api = ApiServer::start();
        fs::write("/tmp/kubeconfig", api.kubeconfig())?;
        let serve = Process::serve(&[
            "--offer",
            "dra",
            "--node",
            "node-1",
            "--kubeconfig",
            "/tmp/kubeconfig",
            "--kubelet-root",
            KUBELET_ROOT,
            "--cdi-dir",
            CDI_DIR,
            "--interval",
            "1s",
            "--release",
            "2s",
        ])?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kubelet = runtime.block_on(DraKubelet::register(Path::new(KUBELET_ROOT)));
        let driver = Self { _serve: serve, runtime, api, kubelet };
        driver.wait_for("the devices are stored", |devices| devices.contains_key(&name(ALONE)))?;
        Ok(driver)
    }

    fn prepare(&mut self, claim: &str) -> Result<(), String> {
        self.runtime.block_on(self.kubelet.prepare(claim))
    }

    fn unprepare(&mut self, claim: &str) -> Result<(), String> {
        self.runtime.block_on(self.kubelet.unprepare(claim))
    }

    /// Waits until the stored devices, each with its taint, are as wanted.
    fn wait_for(&self, what: &str, wanted: impl Fn(&BTreeMap<String, Option<String>>) -> bool) -> Result<()> {
        let stored = wait_until(what, || Ok(wanted(&self.api.devices())));
        stored.map(drop).with_context(|| format!("stored are {:?}", self.api.devices()))
    }

    fn taint(&self, address: &str) -> Option<String> {
        self.api.devices().remove(&name(address)).flatten()
    }
}

/// Returns the name of a function in a slice.
fn name(address: &str) -> String {
    format!("pci-{}", address.replace([':', '.'], "-"))
}

/// What a claim is given can be opened, and a held device is withheld before and after the claim.
pub(crate) fn claims() -> Result<String> {
    let mut driver = Driver::start()?;
    for address in [FIRST, SECOND] {
        ensure!(driver.api.devices().contains_key(&name(address)), "{address} is not stored");
    }
    ensure!(driver.taint(BESIDE).is_some(), "{BESIDE} shares its group with a host driver and has no taint");
    driver.api.add_claim("gpu", &name(ALONE), ("vm-1", "p1"));

    let foreign = Holder::full(ALONE)?;
    let held = |devices: &BTreeMap<String, Option<String>>| devices[&name(ALONE)].as_deref() == Some("held");
    let free = |devices: &BTreeMap<String, Option<String>>| devices[&name(ALONE)].is_none();
    driver.wait_for("the taint is stored", held)?;
    let refusal = driver.prepare("gpu").err().context("a held device was prepared")?;
    has_words(&refusal, &[ALONE, "held", &format!("pid {}", foreign.pid())])?;
    foreign.kill();
    driver.wait_for("the taint is removed", free)?;

    driver.prepare("gpu").map_err(anyhow::Error::msg)?;
    let node = format!("/dev/vfio/{}", group(ALONE)?);
    let specs: Vec<_> = fs::read_dir(CDI_DIR)?.collect::<Result<_, _>>()?;
    let [spec] = specs.as_slice() else { anyhow::bail!("{} CDI specs", specs.len()) };
    has_words(&fs::read_to_string(spec.path())?, &[&format!("{node:?}"), ALONE])?;
    let vm = Holder::full(ALONE)?;
    // The claim ends before its VM.
    driver.unprepare("gpu").map_err(anyhow::Error::msg)?;
    ensure!(driver.taint(ALONE).as_deref() == Some("held"), "the claim ended before the taint was stored");
    ensure!(fs::read_dir(CDI_DIR)?.next().is_none(), "the CDI spec is left");
    let killed = vm.kill();
    driver.wait_for("the device is free again", free)?;
    Ok(format!(": free {} ms after the VM's end", killed.elapsed().as_millis()))
}
