//! Converts the document of a pools file to the policy's pools, and checks them.

use super::fields::Fields;
use super::yaml::{Keys, Node};
use crate::config::pools_error::{PoolsError, excerpt};
use std::collections::BTreeMap;
use vfio_plugin_policy::pools::backend::Backend;
use vfio_plugin_policy::pools::resource_name::{env_name, is_resource, variable_collisions};
use vfio_plugin_policy::pools::selector::{self, Selector, VgpuType};
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate, Cdi, OfferBy, Terms};
use vfio_plugin_policy::pools::{Pool, Pools};
use vfio_probe::PciAddress;
use vfio_probe::text::DriverName;

// The comments of the keys are in config/schema/file.rs, which makes deploy/pools.schema.json.
const FILE_KEYS: &[&str] = &["pools"];
const POOL_KEYS: &[&str] =
    &["resource", "select", "offer", "backend", "busy", "busy_allocate", "cdi", "alias"];
const SELECTOR_KEYS: &[&str] =
    &["vendor", "device", "class", "driver", "address", "group", "parent", "numa_node", "vgpu_type"];

/// Converts the pools of a file. `default_offer` is that of pools without the key.
///
/// # Errors
/// The first value that is not usable: its line, and what was expected.
pub(super) fn pools(document: &Node, default_offer: OfferBy) -> Result<Pools, PoolsError> {
    let pools = Fields::of(document, FILE_KEYS)?.required("pools")?.list()?;
    if pools.is_empty() {
        return Err(PoolsError::at(1, "expected at least one pool"));
    }
    let mut resources = Vec::new();
    let pools: Result<_, _> = pools.iter().map(|node| pool(node, default_offer, &mut resources)).collect();
    Ok(Pools::new(pools?))
}

/// Converts a pool. `resources` are the resources of the pools before it, and this one's is added.
fn pool(node: &Node, default_offer: OfferBy, resources: &mut Vec<String>) -> Result<Pool, PoolsError> {
    let fields = Fields::of(node, POOL_KEYS)?;
    let select = fields.required("select")?.list()?;
    let alias = fields.get("alias").map(|node| node.keys()).transpose()?;
    let offer = fields.word("offer", OfferBy::ALL, OfferBy::as_str)?.unwrap_or(default_offer);
    if offer == OfferBy::Dra && cfg!(not(feature = "dra")) {
        return Err(node.error("`offer: dra` needs a program that is built with the feature `dra`"));
    }
    let terms = Terms {
        offer,
        backend: fields.word("backend", Backend::ALL, Backend::as_str)?.unwrap_or_default(),
        busy: fields.word("busy", Busy::ALL, Busy::as_str)?,
        busy_allocate: fields.word("busy_allocate", BusyAllocate::ALL, BusyAllocate::as_str)?,
        cdi: fields.word("cdi", Cdi::ALL, Cdi::as_str)?.unwrap_or_default(),
    };
    let select: Vec<Selector> = select.iter().map(|node| selector(node)).collect::<Result<_, _>>()?;
    if select.is_empty() {
        return Err(node.error("expected `select` with at least one selector; `- {}` selects every device"));
    }
    let resource = fields.get("resource").map(|node| resource(node, resources)).transpose()?;
    if let (Some(resource), Some((line, _))) = (resource, alias.and_then(|keys| keys.values().next())) {
        let text =
            format!("expected no `alias`, because `resource: {resource}` names all devices of the pool");
        return Err(PoolsError::at(*line, text));
    }
    Ok(Pool {
        resource: resource.map(Into::into),
        select,
        terms,
        alias: alias.map(aliases).transpose()?.unwrap_or_default(),
    })
}

fn selector(node: &Node) -> Result<Selector, PoolsError> {
    let fields = Fields::of(node, SELECTOR_KEYS)?;
    let id = "up to 4 hex digits, like 10de";
    let class = "up to 6 hex digits, like 03 or 030200";
    let device = "a PCI address like 0000:3b:00.0 or an mdev uuid";
    let vgpu = "a vGPU type's directory or number, like nvidia-222 or 1414";
    Ok(Selector {
        vendor: fields.parsed("vendor", selector::hex, id)?,
        device: fields.parsed("device", selector::hex, id)?,
        class: fields.parsed("class", selector::class, class)?.unwrap_or_default(),
        driver: fields.parsed("driver", driver, "a driver name, like vfio-pci")?,
        address: fields.parsed("address", |text| text.parse().ok(), device)?,
        group: fields.parsed("group", |text| text.parse().ok(), "an IOMMU group number, like 51")?,
        parent: fields.parsed("parent", pci_address, "a PCI address like 0000:3b:00.0")?,
        numa_node: fields.parsed("numa_node", |text| text.parse().ok(), "a NUMA node number, like 0")?,
        vgpu_type: fields.parsed("vgpu_type", vgpu_type, vgpu)?,
    })
}

fn driver(text: &str) -> Option<String> {
    let valid = !text.is_empty() && !text.contains(' ');
    DriverName::new(text.as_bytes()).filter(|_| valid).map(|name| name.to_string())
}

fn vgpu_type(text: &str) -> Option<String> {
    let valid = !text.is_empty() && text != "0" && !text.contains([' ', '/']);
    VgpuType::new(text.as_bytes()).filter(|_| valid).map(|name| name.to_string())
}

fn pci_address(text: &str) -> Option<PciAddress> {
    PciAddress::parse(text.as_bytes())
}

/// Checks a pool's resource against the kubelet's rules and the resources of the pools before it, and adds it to these.
fn resource<'a>(node: &'a Node, resources: &mut Vec<String>) -> Result<&'a str, PoolsError> {
    let name = node.text()?;
    if !is_resource(name) {
        let expected = "expected a resource name that the kubelet accepts, like nvidia.com/H100";
        return Err(node.error(format!("{}: {expected}", excerpt(name))));
    }
    if resources.iter().any(|other| other == name) {
        let text = format!("{name:?}: another pool has this resource; put the selectors into that pool");
        return Err(node.error(text));
    }
    resources.push(name.to_owned());
    if let Some((first, second)) = variable_collisions(resources.iter().map(String::as_str)).next() {
        return Err(node.error(format!(
            "{second:?}: expected a name that differs from {first} in more than case, _ and ., because KubeVirt reads both from {}",
            env_name(second, false)
        )));
    }
    Ok(name)
}

/// Checks that the aliases are names of resources, and that no model has two.
fn aliases(keys: &Keys) -> Result<BTreeMap<String, String>, PoolsError> {
    let mut ids: BTreeMap<u16, &str> = BTreeMap::new();
    let mut alias = BTreeMap::new();
    for (key, (line, node)) in keys {
        if let Some(first) = selector::hex(key).and_then(|id| ids.insert(id, key)) {
            let text = format!("{key:?} is the same id as {first:?}; expected one of them");
            return Err(PoolsError::at(*line, text));
        }
        let name = node.text()?;
        if !is_resource(&format!("nvidia.com/{name}")) {
            let expected = "at most 63 letters, digits, - _ and ., with a letter or digit at both ends";
            return Err(node.error(format!("{}: expected {expected}", excerpt(name))));
        }
        alias.insert(key.as_ref().to_owned(), name.to_owned());
    }
    Ok(alias)
}
