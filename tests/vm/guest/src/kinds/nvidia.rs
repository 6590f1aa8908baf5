//! Functions with NVIDIA's ids: the default selection, with the resource names that KubeVirt's users have.

use super::{expect_listed, expect_who};
use crate::host::{GPU_SOUND, GPUS, Holder, Module, bind, group, unbind};
use crate::plugin::{Served, forget_assignments, has_words, list_of};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const H100: &str = "nvidia.com/GH100_H100_SXM5_80GB";
const RTX_4090: &str = "nvidia.com/AD102_GEFORCE_RTX_4090";
/// Part of a pci.ids.
const NAMES: &str = "10de  NVIDIA Corporation\n\t22ba  AD102 High Definition Audio Controller\n\
    \t2330  GH100 [H100 SXM5 80GB]\n\t2684  AD102 [GeForce RTX 4090]\n";
const FILE: &str = "/tmp/pci.ids";

/// All of these functions, bound. They are unbound when dropped, before fakeid restores their ids.
struct Bound;

impl Bound {
    fn all() -> Result<Self> {
        let bound = Self;
        for address in GPUS.into_iter().chain([GPU_SOUND]) {
            bind(address)?;
        }
        Ok(bound)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        for address in GPUS.into_iter().chain([GPU_SOUND]) {
            if let Err(error) = unbind(address) {
                println!("cannot unbind {address}: {error:#}");
            }
        }
    }
}

pub(crate) fn gpus() -> Result<String> {
    let [first, second, third] = GPUS;
    let ids = format!(
        "ids={first}=10de:2330:030200,{second}=10de:2330:030200,{third}=10de:2684:030200,{GPU_SOUND}=10de:22ba:040300"
    );
    let _fakeid = Module::load("fakeid", &ids)?;
    let _bound = Bound::all()?;
    std::fs::write(FILE, NAMES)?;
    forget_assignments();
    let served = Served::start_with(&["--pci-ids", FILE, "--interval", "1s", "--busy", "unhealthy"])?;
    for address in GPUS {
        served.wait_for(address, Some("Healthy"))?;
    }
    // The audio function and functions of other vendors are bound too, and are not selected.
    let devices = list_of(&["--pci-ids", FILE])?;
    let addresses: Vec<&str> = devices.iter().filter_map(|device| device["address"].as_str()).collect();
    ensure!(addresses == GPUS, "list has {addresses:?}");
    let listed = |address: &str| -> Result<Value> {
        let mut devices = list_of(&["--pci-ids", FILE])?.into_iter();
        devices
            .find(|device| device["address"] == address)
            .with_context(|| format!("list does not have {address}"))
    };
    for (address, device, resource) in
        [(first, "2330", H100), (second, "2330", H100), (third, "2684", RTX_4090)]
    {
        let expected = json!({"state": "free", "kind": "pci", "vendor": "10de", "device": device, "class": "030200",
            "resource": resource, "health": "Healthy"});
        expect_listed(&listed(address)?, &expected)?;
    }
    let node = |address: &str| Ok::<_, anyhow::Error>(format!("/dev/vfio/{}", group(address)?));
    let allocation = served.allocation(H100, &[first, second])?;
    let both = format!("{first},{second}");
    let nodes = ["/dev/vfio/vfio", &node(first)?, &node(second)?];
    allocation.check(("PCI_RESOURCE_NVIDIA_COM_GH100_H100_SXM5_80GB", &both), &nodes)?;
    let allocation = served.allocation(RTX_4090, &[third])?;
    allocation.check(
        ("PCI_RESOURCE_NVIDIA_COM_AD102_GEFORCE_RTX_4090", third),
        &["/dev/vfio/vfio", &node(third)?],
    )?;

    // A process that holds the audio function holds the GPU.
    let holder = Holder::full(GPU_SOUND)?;
    served.wait_for(third, Some("Unhealthy"))?;
    expect_listed(&listed(third)?, &json!({"state": "held", "evidence": "holder"}))?;
    expect_who(third, holder.pid(), "group")?;
    let refusal = served
        .allocation(RTX_4090, &[third])
        .err()
        .context("allocated although a process holds its group")?;
    has_words(&refusal.to_string(), &[third, &format!("pid {}", holder.pid())])?;
    holder.kill();
    served.wait_for(third, Some("Healthy"))?;
    Ok(String::new())
}
