//! Resource names of devices, looked up in pci.ids once an id.

use crate::node::vgpu_types::VgpuTypes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use vfio_plugin_policy::assignments::reserved::PinnedOffer;
use vfio_plugin_policy::pools::resource_name::{env_name, model_name, resource_of, variable_collisions};
use vfio_plugin_policy::pools::selector::VgpuType;
use vfio_plugin_policy::pools::terms::Offer;
use vfio_plugin_policy::pools::{Pools, selector};
use vfio_probe::{Device, DeviceId, Kind, Root};

/// Gives devices their resources; remembers every model that it has seen.
#[derive(Debug)]
pub(crate) struct ResourceNamer {
    pools: Pools,
    file: Option<PathBuf>,
    /// Names of models by vendor and device.
    known: HashMap<(u16, u16), String>,
    types: VgpuTypes,
    /// Resources of models by the pool's place: a snapshot asks for each device.
    resources: HashMap<(usize, Model), Arc<str>>,
    complained: bool,
    /// Keys of aliases that models of a pool had, by its place.
    had: BTreeMap<usize, BTreeSet<String>>,
    /// Keys that have been said to name nothing.
    useless: BTreeSet<(usize, String)>,
    /// Pairs of pools that have been said to want the same device.
    overlaps: BTreeSet<(usize, usize)>,
    /// Resources that have been said to share a variable with another.
    collisions: BTreeSet<Arc<str>>,
    /// How devices were offered last.
    offered: BTreeMap<DeviceId, Offer>,
    keeps: bool,
}

/// What a device is named by where its pool has no name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Model {
    /// Vendor and device.
    Ids(u16, u16),
    /// A vGPU's type, as the vendor's driver numbers it.
    Type(VgpuType),
}

impl Model {
    fn of(device: &Device) -> Self {
        device.vgpu_type.map_or(Self::Ids(device.vendor, device.device), Self::Type)
    }

    /// Whether a key of aliases means it, which is called `name`. A vGPU has its parent's ids, which mean whole devices.
    fn is(&self, key: &str, name: &str) -> bool {
        key == name
            || match self {
                Self::Ids(_, device) => selector::hex(key) == Some(*device),
                Self::Type(number) => key == number.as_str(),
            }
    }
}

impl ResourceNamer {
    /// For the devices of the pools, with names from `file` or the first of the usual places.
    pub(crate) fn new(pools: Pools, file: Option<PathBuf>, types: VgpuTypes) -> Self {
        Self {
            pools,
            file,
            known: HashMap::new(),
            types,
            resources: HashMap::new(),
            complained: false,
            had: BTreeMap::new(),
            useless: BTreeSet::new(),
            overlaps: BTreeSet::new(),
            collisions: BTreeSet::new(),
            offered: BTreeMap::new(),
            keeps: false,
        }
    }

    /// Names the models of all devices that are offered by their model and have no name yet: ids in one pass over the file,
    /// types of vGPUs as [`VgpuTypes::ask`] does, each time until they have one.
    pub(crate) fn learn<'a>(&mut self, root: &Root, devices: &(impl Iterator<Item = &'a Device> + Clone)) {
        let named = |model: &Model| match model {
            Model::Ids(..) => true,
            Model::Type(number) => self.types.name(number).is_some(),
        };
        let named_by_model = |device: &'a Device| {
            let (place, pool) = self.pools.of(device)?;
            let model = Model::of(device);
            let done = named(&model) && self.resources.contains_key(&(place, model));
            (pool.resource.is_none() && !done).then_some((place, model, device.vendor))
        };
        let unnamed: BTreeSet<_> = devices.clone().filter_map(named_by_model).collect();
        let models: BTreeSet<Model> = unnamed.iter().map(|(_, model, _)| *model).collect();
        let mut ids = Vec::new();
        for model in models {
            match model {
                Model::Ids(vendor, device) if !self.known.contains_key(&(vendor, device)) => {
                    ids.push((vendor, device));
                }
                Model::Ids(..) => {}
                Model::Type(number) => self.types.ask(root, &number, devices.clone()),
            }
        }
        self.learn_ids(ids);
        for (place, model, vendor) in unnamed {
            let name = match &model {
                Model::Ids(vendor, device) => self.known.get(&(*vendor, *device)).map(String::as_str),
                Model::Type(number) => self.types.name(number).or(Some(number.as_str())),
            };
            let (Some(name), Some(pool)) = (name, self.pools.get(place)) else { continue };
            let keys = || pool.alias.iter().filter(|(key, _)| model.is(key, name));
            let alias = pool.alias.get(name).or_else(|| keys().map(|(_, alias)| alias).next());
            let resource = resource_of(vendor, alias.map_or(name, String::as_str));
            self.had.entry(place).or_default().extend(keys().map(|(key, _)| key.clone()));
            self.resources.insert((place, model), resource.into());
        }
    }

    /// Keeps over a restart what is not told at any time.
    pub(crate) fn keep(&mut self) {
        self.types.keep();
    }

    fn learn_ids(&mut self, unknown: Vec<(u16, u16)>) {
        if unknown.is_empty() {
            return;
        }
        let mut names = vec![None; unknown.len()];
        let found = vfio_probe::names::open(self.file.as_deref()).and_then(|mut file| {
            vfio_probe::names::find(&mut file, &unknown, &mut |index, name| {
                if let Some(slot) = names.get_mut(index) {
                    *slot = Some(name.to_owned());
                }
            })
        });
        if let (Err(error), false) = (found, self.complained) {
            self.complained = true;
            tracing::warn!(%error, "no pci.ids: resources are named by hex ids; give --pci-ids or install pci.ids");
        }
        for ((vendor, device), name) in unknown.into_iter().zip(names) {
            self.known.insert((vendor, device), model_name(device, name.as_deref()));
        }
    }

    /// Says once of each two pools that both select a device, which is the first one's.
    pub(crate) fn tell_overlaps<'a>(&mut self, devices: impl Iterator<Item = &'a Device>) {
        for (first, second, device) in self.pools.overlaps(devices) {
            if self.overlaps.insert((first, second)) {
                let (first, second) = (self.pools.title(first), self.pools.title(second));
                tracing::warn!(device = %device.id, "two pools select it, {first} and {second}: the first has it");
            }
        }
    }

    /// Says once of each alias that no model of its pool has, once the pool has any: a word that is written otherwise than
    /// the model's name is nothing that the file alone could tell.
    pub(crate) fn tell_useless(&mut self) {
        for (place, had) in &self.had {
            let keys = self.pools.get(*place).into_iter().flat_map(|pool| pool.alias.keys());
            for key in keys.filter(|key| !had.contains(*key)) {
                if self.useless.insert((*place, key.clone())) {
                    let pool = self.pools.title(*place);
                    tracing::warn!(alias = key, pool, "no device of the pool here has this name or id");
                }
            }
        }
    }

    /// What the pools are.
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Other pools from now on, as when their file has changed.
    pub(crate) fn set_pools(&mut self, pools: Pools) {
        self.pools = pools;
        self.overlaps.clear();
        self.resources.clear();
        self.had.clear();
        self.useless.clear();
    }

    /// Whether a device is offered otherwise than the pools say now, because it stays put.
    pub(crate) fn keeps_any(&self) -> bool {
        self.keeps
    }

    /// Whether a device is offered otherwise than it was given, or not at all.
    pub(crate) fn contradicts(&self, given: &BTreeMap<DeviceId, PinnedOffer>) -> bool {
        let otherwise = |offered: &Offer, pinned_offers: &PinnedOffer| {
            offered.resource != pinned_offers.resource || offered.terms.pinned() != pinned_offers.pinned
        };
        let elsewhere = |(id, pinned_offers): (&DeviceId, &PinnedOffer)| {
            self.offered.get(id).is_none_or(|offered| otherwise(offered, pinned_offers))
        };
        given.iter().any(elsewhere)
    }

    /// How each device is offered; none for one that is not. A device that stays put, as one that a pod owns does, stays in
    /// the resource that it was `given` by, with the terms of then, or else offered by: the kubelet's books name it there.
    pub(crate) fn offers<'a>(
        &mut self,
        devices: impl Iterator<Item = &'a Device>,
        given: &BTreeMap<DeviceId, PinnedOffer>,
        stays: impl Fn(&Device) -> bool,
    ) -> BTreeMap<DeviceId, Offer> {
        let mut offers = BTreeMap::new();
        self.keeps = false;
        for device in devices {
            let meant = self.offer(device);
            let before = self.offered.get(&device.id);
            let kept = match given.get(&device.id) {
                Some(PinnedOffer { resource, pinned }) => {
                    let before = before.filter(|before| before.resource == *resource).cloned();
                    let offer = before.unwrap_or_else(|| self.as_given(resource, meant.as_ref()));
                    Some(Offer { terms: offer.terms.with(*pinned), ..offer })
                }
                None => before.filter(|_| stays(device)).cloned(),
            };
            let kept = kept.map(|kept| kept.kept(meant.as_ref()));
            self.keeps |= kept.is_some() && kept != meant;
            offers.extend(kept.or(meant).map(|offer| (device.id, offer)));
        }
        self.tell_collisions(&offers);
        self.offered.clone_from(&offers);
        offers
    }

    /// On the terms of the pool whose resource it is, or of the one that has the device now.
    fn as_given(&self, resource: &Arc<str>, meant: Option<&Offer>) -> Offer {
        let named = self.pools.named(resource).map(|pool| pool.terms);
        let terms = named.or(meant.map(|offer| offer.terms)).unwrap_or_default();
        Offer { resource: Arc::clone(resource), terms }
    }

    /// Says once of each resource whose addresses KubeVirt would look for where it does for another's: what the file names is
    /// looked at when it is read, but models are named as they come.
    fn tell_collisions(&mut self, offers: &BTreeMap<DeviceId, Offer>) {
        let resources: BTreeSet<&Arc<str>> = offers.values().map(|offer| &offer.resource).collect();
        for (first, second) in variable_collisions(resources.into_iter().map(|resource| &**resource)) {
            if self.collisions.insert(second.into()) {
                let variable = env_name(second, false);
                tracing::warn!(
                    first,
                    second,
                    variable,
                    "a container that has both is told the addresses of one: give one an alias"
                );
            }
        }
    }

    /// How the pools offer a device; none if they do not.
    pub(crate) fn offer(&self, device: &Device) -> Option<Offer> {
        let (place, pool) = self.pools.of(device)?;
        if device.kind == Kind::VendorVf && device.vgpu_type.is_none() {
            return None; // No vGPU was made of it yet: there is nothing to give.
        }
        let resource = match &pool.resource {
            Some(resource) => resource,
            None => self.resources.get(&(place, Model::of(device)))?,
        };
        Some(Offer { resource: Arc::clone(resource), terms: pool.terms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Instant;
    use vfio_plugin_policy::pools::Pool;
    use vfio_plugin_policy::pools::backend::Backend;
    use vfio_plugin_policy::pools::terms::{Busy, Cdi, PinnedTerms, Terms};
    use vfio_plugin_policy::testing::view;
    use vfio_probe::{Occupancy, Viability};

    #[test]
    fn a_process_that_comes_after_keeps_the_terms_on_which_a_device_was_given() {
        let gpu = view("0000:01:00.0", 51, Occupancy::Free, Instant::now(), Viability::Viable, false).device;
        let pinned = PinnedTerms { backend: Backend::Iommufd, cdi: Cdi::Devices };
        let given = BTreeMap::from([(gpu.id, PinnedOffer { resource: "a.b/c".into(), pinned })]);
        let busy = Some(Busy::Advertise);
        let terms = Terms { busy, ..Terms::default() };
        let select = vec!["10de".parse().unwrap()];
        let pool = Pool { resource: Some("a.b/c".into()), select, terms, ..Pool::default() };
        for (pools, busy) in [(vec![pool], busy), (Vec::new(), None)] {
            let mut namer =
                ResourceNamer::new(Pools::new(pools), None, VgpuTypes::new(Path::new("/nonexistent")));
            assert!(namer.contradicts(&given));
            let offers = namer.offers([gpu].iter(), &given, |_| false);
            assert_eq!(offers[&gpu.id].terms, Terms { busy, ..Terms::default() }.with(pinned));
            assert!(namer.keeps_any() && !namer.contradicts(&given));
        }
    }

    #[test]
    fn what_a_pod_was_given_stays_in_the_resource_of_its_books() {
        let device =
            |address| view(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false).device;
        let devices = [device("0000:01:00.0"), device("0000:02:00.0")];
        let pools = |resource: &str| {
            let select = vec!["10de".parse().unwrap()];
            Pools::new(vec![Pool { resource: Some(resource.into()), select, ..Pool::default() }])
        };
        let mut namer = ResourceNamer::new(pools("a.b/new"), None, VgpuTypes::new(Path::new("/nonexistent")));
        let offered = |namer: &mut ResourceNamer, given: &[(usize, &str)], stays: bool| {
            let pinned_offers =
                |resource: &str| PinnedOffer { resource: resource.into(), pinned: PinnedTerms::default() };
            let given =
                given.iter().map(|(place, resource)| (devices[*place].id, pinned_offers(resource))).collect();
            let offers = namer.offers(devices.iter(), &given, |_| stays);
            let words: Vec<_> = offers.values().map(|offer| offer.resource.to_string()).collect();
            (words.join(" "), namer.keeps_any(), namer.contradicts(&given))
        };
        let expected = |words: &str, keeps: bool| (words.to_owned(), keeps, false);
        assert_eq!(offered(&mut namer, &[], true), expected("a.b/new a.b/new", false));
        assert_eq!(offered(&mut namer, &[(0, "a.b/old")], true), expected("a.b/old a.b/new", true));
        namer.set_pools(pools("a.b/newest"));
        assert_eq!(offered(&mut namer, &[(0, "a.b/old")], false), expected("a.b/old a.b/newest", true));
        // Assignment while the file changed: by what the pools say no more, and were not reports_seen to say.
        assert_eq!(offered(&mut namer, &[(1, "a.b/new")], true), expected("a.b/old a.b/new", true));
        assert_eq!(offered(&mut namer, &[], false), expected("a.b/newest a.b/newest", false));
        namer.set_pools(Pools::new(Vec::new()));
        assert_eq!(offered(&mut namer, &[(1, "a.b/new")], false), expected("a.b/new", true));
    }
}
