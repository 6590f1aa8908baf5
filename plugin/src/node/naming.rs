//! Assigns each device to its resource: by its pool's name, or by its model's.

#[cfg(test)]
mod tests;
mod warnings;

use crate::node::model_names::ModelNames;
use crate::node::vgpu_types::VgpuTypes;
use crate::run_dir::RunDir;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use vfio_plugin_policy::assignments::reserved::{AssignedResource, PinnedOffer};
use vfio_plugin_policy::pools::resource_name::{model_name, resource_of};
use vfio_plugin_policy::pools::selector::VgpuType;
use vfio_plugin_policy::pools::terms::{Offer, Terms};
use vfio_plugin_policy::pools::{Pool, Pools, selector};
use vfio_probe::{Device, DeviceId, Kind, Root};
use warnings::NamingWarnings;

/// Names the resources of devices, and keeps what it learned about models.
#[derive(Debug)]
pub(crate) struct ResourceNamer {
    pools: Pools,
    models: ModelNames,
    types: VgpuTypes,
    /// Resources of models, by the pool's place in the file.
    resources: HashMap<(usize, Model), Arc<str>>,
    /// The keys of `alias` that models of a pool matched, by the pool's place.
    used_aliases: BTreeMap<usize, BTreeSet<String>>,
    warnings: NamingWarnings,
    /// The latest offers.
    offered: BTreeMap<DeviceId, Offer>,
    keeps: bool,
}

/// What names a device if its pool has no `resource`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Model {
    /// PCI vendor and device id.
    Ids(u16, u16),
    /// A vGPU type, by the number of the vendor's driver.
    Type(VgpuType),
}

impl Model {
    fn of(device: &Device) -> Self {
        device.vgpu_type.map_or(Self::Ids(device.vendor, device.device), Self::Type)
    }

    /// Returns whether a key of `alias` means this model with this name. A hex id means whole devices only, because a vGPU has its
    /// parent's ids.
    fn matches(&self, key: &str, name: &str) -> bool {
        key == name
            || match self {
                Self::Ids(_, device) => selector::hex(key) == Some(*device),
                Self::Type(number) => key == number.as_str(),
            }
    }
}

impl ResourceNamer {
    /// Returns a namer for these pools. Models are named by the pci.ids file `file`, or without one as [`ModelNames`] describes.
    /// `run_dir` has the names of vGPU types.
    pub(crate) fn new(pools: Pools, file: Option<PathBuf>, run_dir: &RunDir) -> Self {
        Self {
            pools,
            models: ModelNames::new(file, run_dir.problems.clone()),
            types: VgpuTypes::new(run_dir),
            resources: HashMap::new(),
            used_aliases: BTreeMap::new(),
            warnings: NamingWarnings::new(run_dir.problems.clone()),
            offered: BTreeMap::new(),
            keeps: false,
        }
    }

    /// Learns the names of all models that are offered by model and have no name yet: a pci.ids file is read once for all of them, vGPU
    /// types as [`VgpuTypes::learn`] describes. `devices` are all devices that may be offered. Returns whether any resource is new
    /// or has another name than before.
    ///
    /// If a name cannot be read, the model is offered by its id or number until a later call can read it.
    pub(crate) fn learn<'a>(
        &mut self,
        root: &Root,
        devices: &(impl Iterator<Item = &'a Device> + Clone),
    ) -> bool {
        self.learn_at(root, devices, Instant::now())
    }

    fn learn_at<'a>(
        &mut self,
        root: &Root,
        devices: &(impl Iterator<Item = &'a Device> + Clone),
        now: Instant,
    ) -> bool {
        let unnamed = self.unnamed(devices.clone());
        let models: BTreeSet<Model> = unnamed.iter().map(|(_, model, _)| *model).collect();
        let ids = models.iter().filter_map(|model| match model {
            Model::Ids(vendor, device) => Some((*vendor, *device)),
            Model::Type(_) => None,
        });
        self.models.learn(ids, now);
        let types = models.iter().filter_map(|model| match model {
            Model::Ids(..) => None,
            Model::Type(number) => Some(*number),
        });
        self.types.learn(root, types, devices, now);
        let mut changed = false;
        for (place, model, vendor) in unnamed {
            changed |= self.name_model(place, model, vendor);
        }
        changed
    }

    /// Returns the models without a final name, each with its pool's place and its vendor.
    fn unnamed<'a>(&self, devices: impl Iterator<Item = &'a Device>) -> BTreeSet<(usize, Model, u16)> {
        let named_by_model = |device: &'a Device| {
            let (place, pool) = self.pools.of(device)?;
            let model = Model::of(device);
            let is_done = self.final_name(&model).is_some() && self.resources.contains_key(&(place, model));
            (pool.resource.is_none() && !is_done).then_some((place, model, device.vendor))
        };
        devices.filter_map(named_by_model).collect()
    }

    /// Returns a model's name if it could be read.
    fn final_name(&self, model: &Model) -> Option<&str> {
        match model {
            Model::Ids(vendor, device) => self.models.name((*vendor, *device)),
            Model::Type(number) => self.types.name(number),
        }
    }

    /// Sets the resource of a model in a pool. Returns whether it is another one than before.
    fn name_model(&mut self, place: usize, model: Model, vendor: u16) -> bool {
        let name = self.final_name(&model).map_or_else(
            || match &model {
                Model::Ids(_, device) => model_name(*device, None),
                Model::Type(number) => number.to_string(),
            },
            str::to_owned,
        );
        let Some(pool) = self.pools.get(place) else { return false };
        let keys: Vec<&String> = pool.alias.keys().filter(|key| model.matches(key, &name)).collect();
        let alias = pool.alias.get(&name).or_else(|| keys.first().and_then(|key| pool.alias.get(*key)));
        let resource = resource_of(vendor, alias.unwrap_or(&name));
        self.used_aliases.entry(place).or_default().extend(keys.into_iter().cloned());
        let known = self.resources.get(&(place, model)).map(|known| &**known);
        let changed = known != Some(&*resource);
        if changed {
            self.resources.insert((place, model), resource.into());
        }
        changed
    }

    /// Returns whether a failed read of a name is to be repeated by [`learn`](Self::learn).
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.models.is_due(now) || self.types.is_due(now)
    }

    /// Saves the names that the driver does not report at all times for the next process.
    pub(crate) fn save(&mut self) {
        self.types.save();
    }

    /// Logs each pair of pools that select the same device, once.
    pub(crate) fn warn_of_overlaps<'a>(&mut self, devices: impl Iterator<Item = &'a Device>) {
        self.warnings.overlaps(&self.pools, devices);
    }

    /// Logs each alias that matches no model of its pool, once, as soon as the pool has a model.
    pub(crate) fn warn_of_unused_aliases(&mut self) {
        self.warnings.unused_aliases(&self.pools, &self.used_aliases, self.models.is_failing());
    }

    /// Returns the pools.
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Replaces the pools, after a change of their file.
    pub(crate) fn set_pools(&mut self, pools: Pools) {
        self.pools = pools;
        self.resources.clear();
        self.used_aliases.clear();
        self.warnings.forget_pools();
    }

    /// Returns whether the latest offers differ from the pools for a device that stays as it is.
    pub(crate) fn keeps_any(&self) -> bool {
        self.keeps
    }

    /// Returns whether the latest offers contradict how a device was allocated.
    pub(crate) fn contradicts(&self, pinned_offers: &BTreeMap<DeviceId, PinnedOffer>) -> bool {
        let differs = |offered: &Offer, pinned_offer: &PinnedOffer| {
            offered.resource != pinned_offer.resource || offered.terms.pinned() != pinned_offer.pinned
        };
        pinned_offers.iter().any(|(id, pinned_offer)| {
            self.offered.get(id).is_none_or(|offered| differs(offered, pinned_offer))
        })
    }

    /// Returns how each device is offered, and leaves out the devices that no pool offers.
    ///
    /// A device that a pod is assigned stays in the resource by which it was allocated, on the pinned terms, because the kubelet's
    /// checkpoint names it there. A device for which `stays` is true stays as it was offered, also if its allocation is unknown.
    pub(crate) fn offers<'a>(
        &mut self,
        devices: impl Iterator<Item = &'a Device>,
        pinned_offers: &BTreeMap<DeviceId, PinnedOffer>,
        stays: impl Fn(&Device) -> bool,
    ) -> BTreeMap<DeviceId, Offer> {
        let mut offers = BTreeMap::new();
        self.keeps = false;
        for device in devices {
            let offer_of_pools = self.offer(device);
            let before = self.offered.get(&device.id);
            let kept = match pinned_offers.get(&device.id) {
                Some(PinnedOffer { resource, pinned }) => {
                    let before = before.filter(|before| before.resource == *resource).cloned();
                    let offer =
                        before.unwrap_or_else(|| self.pinned_offer(resource, offer_of_pools.as_ref()));
                    Some(Offer { terms: offer.terms.with(*pinned), ..offer })
                }
                None => before.filter(|_| stays(device)).cloned(),
            };
            let kept = kept.map(|kept| kept.kept(offer_of_pools.as_ref()));
            self.keeps |= kept.is_some() && kept != offer_of_pools;
            offers.extend(kept.or(offer_of_pools).map(|offer| (device.id, offer)));
        }
        self.warnings.offered_twice(offers.values());
        self.warnings.collisions(offers.values().map(|offer| &offer.resource));
        self.offered.clone_from(&offers);
        offers
    }

    /// Returns the offer of a device that was allocated by `resource` when another process ran: on the terms of the pool with
    /// this resource, or else of the pool that selects the device now.
    fn pinned_offer(&self, resource: &Arc<str>, offer_of_pools: Option<&Offer>) -> Offer {
        let terms = self.pools.named(resource).map(|pool| pool.terms);
        let terms = terms.or(offer_of_pools.map(|offer| offer.terms)).unwrap_or_default();
        Offer { resource: Arc::clone(resource), terms }
    }

    /// Returns how an assigned device that is not bound stays offered: by the resource that it was allocated from. None if that is
    /// not this plugin's. `device` is its record; none if it does not exist.
    pub(crate) fn offer_of_assigned(
        &self,
        assigned: &AssignedResource,
        id: DeviceId,
        device: Option<&Device>,
    ) -> Option<Offer> {
        let resource = &assigned.resource;
        let is_known = assigned.is_of_this_plugin || self.resources.values().any(|known| known == resource);
        let terms = self.pools.of_assigned(resource, id, device);
        let terms = terms.or_else(|| is_known.then(Terms::default))?;
        Some(Offer { resource: Arc::clone(resource), terms })
    }

    /// Returns whether a device is in a pool, or was offered when it was.
    pub(crate) fn may_offer(&self, device: &Device) -> bool {
        self.pools.of(device).is_some() || self.offered.contains_key(&device.id)
    }

    /// Returns how the pools offer a device; none if they do not. A virtual function of a vendor's driver without a vGPU is not
    /// offered.
    pub(crate) fn offer(&self, device: &Device) -> Option<Offer> {
        let (place, pool) = self.pools.of(device)?;
        if device.kind == Kind::VendorVf && device.vgpu_type.is_none() {
            return None;
        }
        let resource = self.resource(place, pool, device)?;
        Some(Offer { resource: Arc::clone(resource), terms: pool.terms })
    }

    fn resource<'s>(&'s self, place: usize, pool: &'s Pool, device: &Device) -> Option<&'s Arc<str>> {
        match &pool.resource {
            Some(resource) => Some(resource),
            None => self.resources.get(&(place, Model::of(device))),
        }
    }
}
