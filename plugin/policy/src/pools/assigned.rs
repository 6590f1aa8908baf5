//! Decides whether an assigned device that is not bound can be one of these pools.
//!
//! Such a device stays listed until its pod ends. Its resource is the one by which the kubelet allocated it, and it must not be
//! another plugin's: SR-IOV plugins use PCI addresses as ids too, some of them under nvidia.com.

use crate::pools::resource_name::resource_of;
use crate::pools::selector::Selector;
use crate::pools::terms::Terms;
use crate::pools::{Pool, Pools};
use vfio_probe::{Device, DeviceId, Kind};

impl Pools {
    /// Returns the terms of the pool that can have offered the device `id` under `resource`. None if no pool can.
    ///
    /// `device` is the device's record, whatever its driver is now; none if it does not exist. Then only the id and the resource are
    /// compared: a pool with a name must have this one, and a pool that names models must be able to make it.
    pub fn of_assigned(&self, resource: &str, id: DeviceId, device: Option<&Device>) -> Option<Terms> {
        let named =
            self.named(resource).filter(|pool| pool.select.iter().any(|selector| fits_id(selector, id)));
        let by_model =
            || self.all().find(|pool| pool.resource.is_none() && pool.can_name(resource, id, device));
        named.or_else(by_model).map(|pool| pool.terms)
    }
}

impl Pool {
    /// Returns whether this pool, which names models, can name a device's resource like this.
    fn can_name(&self, resource: &str, id: DeviceId, device: Option<&Device>) -> bool {
        let Some((_, name)) = resource.split_once('/') else { return false };
        let is_alias = self.alias.values().any(|alias| alias == name);
        let is_vgpu = device.map_or(id.pci().is_none(), |device| device.kind != Kind::Pci);
        let is_name = is_alias || is_model_name(name) || is_vgpu;
        let is_of_vendor = |vendor: u16| resource_of(vendor, name) == resource;
        let selects = |selector: &Selector| match device {
            Some(device) => {
                let selector = Selector { driver: None, ..selector.clone() };
                selector.matches(device) && is_of_vendor(device.vendor)
            }
            None => {
                fits_id(selector, id)
                    && selector.vendor.map_or_else(|| vendor_of(resource).is_some(), is_of_vendor)
            }
        };
        is_name && self.select.iter().any(selects)
    }
}

/// Returns whether a selector can select a device of which only the id is known.
fn fits_id(selector: &Selector, id: DeviceId) -> bool {
    selector.address.is_none_or(|address| address == id)
}

/// Returns whether [`model_name`](crate::pools::resource_name::model_name) can make a name: capital letters, digits and
/// underscores, or a hex id.
fn is_model_name(name: &str) -> bool {
    let is_hex = name.len() == 4 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex || name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'_'))
}

/// Returns the vendor in the domain of a model's resource ([`resource_of`]).
fn vendor_of(resource: &str) -> Option<u16> {
    let (domain, name) = resource.split_once('/')?;
    let hex = domain.strip_prefix("pci-").and_then(|rest| rest.strip_suffix(".vfio"));
    let vendor = match hex {
        Some(hex) => u16::from_str_radix(hex, 16).ok()?,
        None => 0x10de,
    };
    (resource_of(vendor, name) == resource).then_some(vendor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_state;
    use std::collections::BTreeMap;
    use std::time::Instant;
    use vfio_probe::text::Text;
    use vfio_probe::{Occupancy, Viability};

    const GPU: &str = "0000:1b:00.0";
    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    fn device() -> Device {
        let now = Instant::now();
        let mut device = device_state(GPU, 51, Occupancy::Free, now, Viability::Viable, false).device;
        device.driver = Text::new(b"nvidia");
        device
    }

    fn pool(resource: Option<&str>, selector: Selector) -> Pools {
        Pools::new(vec![Pool {
            resource: resource.map(Into::into),
            select: vec![selector],
            ..Pool::default()
        }])
    }

    fn knows(pools: &Pools, resource: &str, id: &str, device: Option<&Device>) -> bool {
        pools.of_assigned(resource, id.parse().unwrap(), device).is_some()
    }

    #[test]
    fn device_on_the_bus_is_selected_without_its_driver() {
        let gpus = Selector { driver: Some("vfio-pci".into()), .."10de/03".parse().unwrap() };
        let (pools, gpu) = (pool(None, gpus), device());
        for resource in ["nvidia.com/2330", "nvidia.com/GH100_H100_SXM5_80GB"] {
            assert!(knows(&pools, resource, GPU, Some(&gpu)), "{resource}");
        }
        for resource in ["nvidia.com/hostdev", "intel.com/sriov", "pci-1002.vfio/2330", "2330"] {
            assert!(!knows(&pools, resource, GPU, Some(&gpu)), "{resource}");
        }
        let mut card = gpu;
        card.class = 0x02_0000;
        assert!(!knows(&pools, "nvidia.com/2330", GPU, Some(&card)), "no pool selects network cards");
    }

    #[test]
    fn gone_device_belongs_to_a_pool_that_can_have_named_it() {
        let pools = pool(None, "10de/03".parse().unwrap());
        assert!(knows(&pools, "nvidia.com/2330", GPU, None));
        assert!(knows(&pools, "nvidia.com/GRID_T4-1Q", UUID, None), "a vGPU type");
        for resource in ["nvidia.com/hostdev", "intel.com/VF", "pci-10de.vfio/2330", "nvidia.com/GRID_T4-1Q"]
        {
            assert!(!knows(&pools, resource, GPU, None), "{resource}");
        }
        let any = pool(None, Selector::default());
        assert!(knows(&any, "pci-1002.vfio/74a1", GPU, None));
        assert!(!knows(&any, "intel.com/VF", GPU, None));
    }

    #[test]
    fn named_pool_and_alias_are_compared_by_their_names() {
        let pools = pool(Some("example.com/gpu"), Selector::default());
        assert!(knows(&pools, "example.com/gpu", GPU, None));
        assert!(!knows(&pools, "example.com/old-name", GPU, None));
        let elsewhere = Selector { address: Some("0000:3d:00.0".parse().unwrap()), ..Selector::default() };
        assert!(!knows(&pool(Some("example.com/gpu"), elsewhere), "example.com/gpu", GPU, None));
        let alias = BTreeMap::from([("2330".to_owned(), "hopper".to_owned())]);
        let select = vec!["10de".parse().unwrap()];
        let pools = Pools::new(vec![Pool { select, alias, ..Pool::default() }]);
        assert!(knows(&pools, "nvidia.com/hopper", GPU, None));
    }
}
