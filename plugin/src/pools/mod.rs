//! Pure: which devices are offered, under which resource and how. Of several pools the first that selects a device has it.

pub(crate) mod backend;
pub(crate) mod file;
pub(crate) mod mistake;
pub(crate) mod reload;
#[cfg(test)]
mod schema;
pub(crate) mod selector;

use crate::cdi::Cdi;
use crate::health::Busy;
use crate::settings::BusyAllocate;
use crate::snapshot::DeviceReport;
use backend::Backend;
use selector::Selector;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_probe::Device;

/// All pools, in the order in which they are asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pools(Vec<Pool>);

/// On what terms a pool's devices are given, beyond their resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Terms {
    /// By which device nodes a machine is given them.
    pub(crate) backend: Backend,
    /// What the kubelet is told of a held one; none is the command line's.
    pub(crate) busy: Option<Busy>,
    /// What Allocate does with one that is held after all; none is the command line's.
    pub(crate) busy_allocate: Option<BusyAllocate>,
    /// Whether container runtimes find them by CDI.
    pub(crate) cdi: Cdi,
}

/// What of a device's terms must not change while a pod has it: by which nodes it is given, and the spec that a container
/// asks for by name. The kubelet's checkpoint keeps what Allocate has answered (`AllocResp`) for a container that is made again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Fixed {
    pub(crate) backend: Backend,
    pub(crate) cdi: Cdi,
}

impl Terms {
    /// What of them must not change.
    pub(crate) fn fixed(self) -> Fixed {
        Fixed { backend: self.backend, cdi: self.cdi }
    }

    /// These, but for what a pod's device was given by.
    pub(crate) fn with(self, Fixed { backend, cdi }: Fixed) -> Self {
        Self { backend, cdi, ..self }
    }

    /// Those of a device that stays where it is, when its pool says `now` something else: what a held one means is
    /// nothing that was given to anybody.
    pub(crate) fn kept(self, now: Self) -> Self {
        now.with(self.fixed())
    }
}

/// Devices that are offered alike.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pool {
    /// The resource of all its devices; none names each by its model, as NVIDIA's plugin does.
    pub(crate) resource: Option<Arc<str>>,
    /// A device is in the pool if one of these selects it.
    pub(crate) select: Vec<Selector>,
    /// On what terms they are given.
    pub(crate) terms: Terms,
    /// Other names for models: the name made from pci.ids, or the hex id, or a vGPU's type, to the one to use in its place.
    pub(crate) alias: BTreeMap<String, String>,
}

impl Pools {
    /// Those of a file.
    pub(crate) fn new(pools: Vec<Pool>) -> Self {
        Self(pools)
    }

    /// One pool of what `--select` names, each device named by its model.
    pub(crate) fn of_selectors(select: &[Selector]) -> Self {
        Self(vec![Pool { select: select.to_vec(), ..Pool::default() }])
    }

    /// What a running `serve` offers: its devices, by their resources.
    pub(crate) fn as_told(devices: &[DeviceReport]) -> Self {
        let mut pools: BTreeMap<&str, Vec<Selector>> = BTreeMap::new();
        for device in devices {
            // A selector without an address would have every device.
            let Ok(address) = device.address.parse().map(Some) else { continue };
            pools.entry(&device.resource).or_default().push(Selector { address, ..Selector::default() });
        }
        let pool = |(resource, select): (&str, _)| Pool {
            resource: Some(resource.into()),
            select,
            ..Pool::default()
        };
        Self(pools.into_iter().map(pool).collect())
    }

    /// The pool that has the device, and its place.
    pub(crate) fn of(&self, device: &Device) -> Option<(usize, &Pool)> {
        self.0.iter().enumerate().find(|(_, pool)| pool.selects(device))
    }

    /// The pool at a place.
    pub(crate) fn get(&self, place: usize) -> Option<&Pool> {
        self.0.get(place)
    }

    /// The pool whose devices are all of this resource.
    pub(crate) fn named(&self, resource: &str) -> Option<&Pool> {
        self.0.iter().find(|pool| pool.resource.as_deref() == Some(resource))
    }

    /// Whether a record has to be read whole to tell: a virtual function's parent is read only then.
    pub(crate) fn need_parents(&self) -> bool {
        self.0.iter().flat_map(|pool| &pool.select).any(Selector::needs_parent)
    }

    /// What a second pool would have had, if the first had not: place of the first pool, place of the second, device.
    pub(crate) fn overlaps<'a>(
        &self,
        devices: impl Iterator<Item = &'a Device>,
    ) -> Vec<(usize, usize, &'a Device)> {
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

    /// How a pool is called in messages: by its resource, or by its place in the file.
    pub(crate) fn title(&self, place: usize) -> String {
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
    use crate::snapshot::tests::view;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    fn device(address: &str) -> Device {
        view(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false).device
    }

    fn pool(resource: &str, selector: &str) -> Pool {
        Pool { resource: Some(resource.into()), select: vec![selector.parse().unwrap()], ..Pool::default() }
    }

    #[test]
    fn the_first_pool_that_selects_a_device_has_it() {
        let pools = Pools::new(vec![pool("a/one", "10de:1111"), pool("a/two", "10de"), pool("a/three", "*")]);
        let gpu = device("0000:01:00.0");
        assert_eq!(pools.of(&gpu).unwrap().1.resource.as_deref(), Some("a/two"));
        let card = Device { vendor: 0x8086, ..gpu };
        assert_eq!(pools.of(&card).unwrap().1.resource.as_deref(), Some("a/three"));
        assert_eq!(Pools::of_selectors(&["1002".parse().unwrap()]).of(&gpu), None);
    }

    #[test]
    fn an_overlap_is_said_once_with_a_device() {
        let pools = Pools::new(vec![pool("a/one", "10de"), pool("a/two", "*"), pool("a/three", "10de:2330")]);
        let devices = [device("0000:01:00.0"), device("0000:02:00.0")];
        let found = pools.overlaps(devices.iter());
        assert_eq!(found, [(0, 1, &devices[0])]);
        assert_eq!((pools.title(0), pools.title(1)), ("a/one".to_owned(), "a/two".to_owned()));
        let unnamed = Pools::of_selectors(&["*".parse().unwrap()]);
        assert_eq!(unnamed.title(0), "pool 1");
        assert_eq!(unnamed.overlaps(devices.iter()), []);
    }
}
