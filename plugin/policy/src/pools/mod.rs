//! Pools: which devices the plugin offers, under which resource and on which terms.

pub mod assigned;
pub mod backend;
pub mod resource_name;
pub mod selector;
pub mod terms;

use selector::Selector;
use std::collections::BTreeMap;
use std::sync::Arc;
use terms::{OfferBy, Terms};
use vfio_probe::{Device, DeviceId};

/// All pools, in the order of the file. The first pool that selects a device offers it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pools(Vec<Pool>);

/// Devices that are offered alike.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pool {
    /// The resource of all its devices. None names each device by its model, as NVIDIA's plugin does.
    pub resource: Option<Arc<str>>,
    /// The pool selects a device if one of these does.
    pub select: Vec<Selector>,
    /// The terms on which its devices are offered.
    pub terms: Terms,
    /// Other names for models: from the name that pci.ids leads to, a hex id or a vGPU type, to the name to use instead.
    pub alias: BTreeMap<String, String>,
}

impl Pools {
    /// Returns the pools of a file.
    pub fn new(pools: Vec<Pool>) -> Self {
        Self(pools)
    }

    /// Returns one pool of the devices that these selectors select, each named by its model.
    pub fn of_selectors(select: &[Selector], offer: OfferBy) -> Self {
        let terms = Terms { offer, ..Terms::default() };
        Self(vec![Pool { select: select.to_vec(), terms, ..Pool::default() }])
    }

    /// Returns whether any pool offers its devices this way.
    pub fn offer_by(&self, offer: OfferBy) -> bool {
        self.0.iter().any(|pool| pool.terms.offer == offer)
    }

    /// Returns pools of single devices: each resource with the devices that a running `serve` offers under it, and how it does.
    pub fn of_devices<'a>(devices: impl Iterator<Item = (DeviceId, &'a str, OfferBy)>) -> Self {
        let mut pools: BTreeMap<(&str, bool), Vec<Selector>> = BTreeMap::new();
        for (address, resource, offer) in devices {
            let address = Some(address);
            let pool = pools.entry((resource, offer == OfferBy::Dra)).or_default();
            pool.push(Selector { address, ..Selector::default() });
        }
        let pool = |((resource, is_dra), select): ((&str, bool), _)| Pool {
            resource: Some(resource.into()),
            select,
            terms: Terms {
                offer: if is_dra { OfferBy::Dra } else { OfferBy::DevicePlugin },
                ..Terms::default()
            },
            ..Pool::default()
        };
        Self(pools.into_iter().map(pool).collect())
    }

    /// Returns the pool that offers a device, with its place in the file.
    pub fn of(&self, device: &Device) -> Option<(usize, &Pool)> {
        self.0.iter().enumerate().find(|(_, pool)| pool.selects(device))
    }

    fn all(&self) -> impl Iterator<Item = &Pool> {
        self.0.iter()
    }

    /// Returns the pool at a place.
    pub fn get(&self, place: usize) -> Option<&Pool> {
        self.0.get(place)
    }

    /// Returns the pool with this `resource`. Pools that name devices by model have none.
    pub fn named(&self, resource: &str) -> Option<&Pool> {
        self.0.iter().find(|pool| pool.resource.as_deref() == Some(resource))
    }

    /// Returns whether a selector needs the parents of virtual functions, which are read only then.
    pub fn need_parents(&self) -> bool {
        self.0.iter().flat_map(|pool| &pool.select).any(Selector::needs_parent)
    }

    /// Returns each pair of pools that select the same device: the place of the first, the place of the second, and one such
    /// device.
    pub fn overlaps<'a>(&self, devices: impl Iterator<Item = &'a Device>) -> Vec<(usize, usize, &'a Device)> {
        let mut found: Vec<(usize, usize, &Device)> = Vec::new();
        if self.0.len() < 2 {
            return found;
        }
        for device in devices {
            let mut places =
                self.0.iter().enumerate().filter(|(_, pool)| pool.selects(device)).map(|(place, _)| place);
            if let (Some(first), Some(second)) = (places.next(), places.next())
                && !found.iter().any(|known| (known.0, known.1) == (first, second))
            {
                found.push((first, second, device));
            }
        }
        found
    }

    /// Returns a pool's name for messages: its resource, or its place in the file.
    pub fn title(&self, place: usize) -> String {
        let resource = self.get(place).and_then(|pool| pool.resource.as_ref());
        resource.map_or_else(|| format!("pool {}", place + 1), ToString::to_string)
    }
}

impl Pool {
    fn selects(&self, device: &Device) -> bool {
        self.select.iter().any(|selector| selector.matches(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_state;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    fn device(address: &str) -> Device {
        device_state(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false).device
    }

    fn pool(resource: &str, selector: &str) -> Pool {
        Pool { resource: Some(resource.into()), select: vec![selector.parse().unwrap()], ..Pool::default() }
    }

    #[test]
    fn first_pool_that_selects_a_device_offers_it() {
        let pools = Pools::new(vec![pool("a/one", "10de:1111"), pool("a/two", "10de"), pool("a/three", "*")]);
        let gpu = device("0000:01:00.0");
        assert_eq!(pools.of(&gpu).unwrap().1.resource.as_deref(), Some("a/two"));
        let mut card = gpu;
        card.vendor = 0x8086;
        assert_eq!(pools.of(&card).unwrap().1.resource.as_deref(), Some("a/three"));
        assert_eq!(Pools::of_selectors(&["1002".parse().unwrap()], OfferBy::Dra).of(&gpu), None);
    }

    #[test]
    fn overlap_of_two_pools_is_returned_once() {
        let pools = Pools::new(vec![pool("a/one", "10de"), pool("a/two", "*"), pool("a/three", "10de:2330")]);
        let devices = [device("0000:01:00.0"), device("0000:02:00.0")];
        let found = pools.overlaps(devices.iter());
        assert_eq!(found, [(0, 1, &devices[0])]);
        assert_eq!((pools.title(0), pools.title(1)), ("a/one".to_owned(), "a/two".to_owned()));
        let unnamed = Pools::of_selectors(&["*".parse().unwrap()], OfferBy::Dra);
        assert_eq!(unnamed.title(0), "pool 1");
        assert_eq!(unnamed.overlaps(devices.iter()), []);
    }
}
