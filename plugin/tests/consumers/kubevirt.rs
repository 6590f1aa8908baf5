//! Reads the variables of a container as KubeVirt's virt-launcher does, from the rules in docs/consumers.md.

use std::collections::{BTreeMap, HashMap};
use vfio_sim_node::Kubelet;

/// A host device of a VM, as it stands in libvirt's domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HostDevice {
    /// A PCI function: domain, bus, slot and function in hex.
    Pci([String; 4]),
    /// A mediated device's uuid.
    Mdev(String),
}

/// Returns the name of the variable (`ResourceNameToEnvVar`).
fn variable(prefix: &str, resource: &str) -> String {
    format!("{prefix}_{}", resource.to_uppercase().replace(['/', '.'], "_"))
}

/// The addresses of each resource that have not been taken yet (`AddressPool`).
struct AddressPool(BTreeMap<String, Vec<String>>);

impl AddressPool {
    /// Reads the variables of these resources. A resource without its variable is not in the pool.
    fn load(prefix: &str, resources: &[&str], envs: &HashMap<String, String>) -> Self {
        let read = resources.iter().filter_map(|resource| {
            let value = envs.get(&variable(prefix, resource))?;
            let value = value.strip_suffix(',').unwrap_or(value);
            let addresses = value.split(',').map(str::to_owned);
            let addresses = if value.is_empty() { Vec::new() } else { addresses.collect() };
            Some(((*resource).to_owned(), addresses))
        });
        Self(read.collect())
    }

    /// Takes the next address of a resource, from the lists of all resources.
    fn pop(&mut self, resource: &str) -> Option<String> {
        let first = self.0.get(resource)?.first()?.clone();
        self.0.values_mut().for_each(|addresses| addresses.retain(|address| *address != first));
        Some(first)
    }
}

/// Returns the parts of an address (`ParsePciAddress`). It must have the kernel's form with a domain of four digits.
fn parse(address: &str) -> Result<[String; 4], String> {
    let pattern =
        regex::Regex::new(r"^([0-9a-fA-F]{4}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])$").unwrap();
    let parts = pattern.captures(address).ok_or_else(|| format!("no PCI address: {address:?}"))?;
    Ok([1, 2, 3, 4].map(|part| parts[part].to_owned()))
}

/// Returns the host devices of a VM whose spec has one entry for each of `gpus`, which are resources
/// (`CreateHostDevices`). virt-launcher searches the pools of both prefixes for each entry.
///
/// # Errors
/// An address cannot be parsed, or there are more or fewer devices than entries. The VM does not start then.
pub(crate) fn host_devices(gpus: &[&str], envs: &HashMap<String, String>) -> Result<Vec<HostDevice>, String> {
    let mut pci = AddressPool::load("PCI_RESOURCE", gpus, envs);
    let mut mdev = AddressPool::load("MDEV_PCI_RESOURCE", gpus, envs);
    let mut devices = Vec::new();
    for address in gpus.iter().filter_map(|resource| pci.pop(resource)) {
        devices.push(HostDevice::Pci(parse(&address)?));
    }
    devices.extend(gpus.iter().filter_map(|resource| mdev.pop(resource)).map(HostDevice::Mdev));
    if devices.len() == gpus.len() {
        Ok(devices)
    } else {
        Err(format!("{} entries and {} devices", gpus.len(), devices.len()))
    }
}

/// Returns the host device of an address.
pub(crate) fn pci(address: &str) -> HostDevice {
    HostDevice::Pci(parse(address).unwrap())
}

/// Allocates devices of each resource to one container, and returns the variables of all responses, as the kubelet merges
/// them. It takes the first of two that have one name and ignores the other (`deviceRunContainerOptions`): the test fails then.
pub(crate) async fn variables(kubelet: &Kubelet, requests: &[(&str, &[&str])]) -> HashMap<String, String> {
    let mut all = HashMap::new();
    for (resource, ids) in requests {
        let ids: Vec<String> = ids.iter().map(|&id| id.to_owned()).collect();
        let container = kubelet.allocate(resource, &[&ids]).await.unwrap().remove(0);
        for (name, value) in container.envs {
            let earlier = all.insert(name.clone(), value);
            assert_eq!(earlier, None, "two resources set {name}");
        }
    }
    all
}

#[test]
fn reader_takes_each_address_once_and_needs_one_for_each_entry() {
    let envs = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let (a, b) = ("0000:1b:00.0", "0000:3d:00.0");
    let both = format!("{a},{b},");
    let one = envs(&[("PCI_RESOURCE_A_B_C-D", &both)]);
    assert_eq!(host_devices(&["a.b/c-d", "a.b/c-d"], &one), Ok(vec![pci(a), pci(b)]));
    assert!(host_devices(&["a.b/c-d"; 3], &one).is_err(), "one trailing comma is no address");
    assert!(host_devices(&["a.b/x"], &one).is_err(), "the variable of another resource");
    let shared = envs(&[("PCI_RESOURCE_A_X", a), ("PCI_RESOURCE_A_Y", a)]);
    assert!(host_devices(&["a/x", "a/y"], &shared).is_err(), "an address goes to one entry");
    let twice = envs(&[("PCI_RESOURCE_A_X", a), ("MDEV_PCI_RESOURCE_A_X", "uuid")]);
    assert!(host_devices(&["a/x"], &twice).is_err(), "both prefixes yield two devices for one entry");
    for value in ["", " 0000:1b:00.0", "51"] {
        assert!(host_devices(&["a/x"], &envs(&[("PCI_RESOURCE_A_X", value)])).is_err(), "{value:?}");
    }
    let spaced = envs(&[("PCI_RESOURCE_A_X", "0000:1b:00.0, 0000:3d:00.0")]);
    assert!(host_devices(&["a/x"; 2], &spaced).is_err(), "no other character is trimmed");
}
