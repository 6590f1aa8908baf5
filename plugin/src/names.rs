//! Resource names of devices, looked up in pci.ids once an id.

use crate::pools::Pools;
use crate::pools::backend::Backend;
use crate::resources::{model_name, resource_of, type_name};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use vfio_probe::text::Text;
use vfio_probe::{Device, DeviceId, Kind, Root};

/// Gives devices their resources; remembers every id that it has seen.
#[derive(Debug)]
pub(crate) struct Namer {
    pools: Pools,
    file: Option<PathBuf>,
    /// Names of models, by vendor and device.
    known: HashMap<(u16, u16), String>,
    /// Names of types of vGPUs, by the folder or number that the vendor's driver has for them.
    types: HashMap<Text<64>, String>,
    complained: bool,
    /// Pairs of pools that have been said to want the same device.
    overlaps: BTreeSet<(usize, usize)>,
    /// How devices were offered last.
    offered: BTreeMap<DeviceId, Offer>,
    keeps: bool,
}

/// How a device is offered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Offer {
    /// The resource that it belongs to.
    pub(crate) resource: Arc<str>,
    /// By which nodes a machine is given it.
    pub(crate) backend: Backend,
}

impl Namer {
    /// For the devices of the pools, with names from `file` or the first of the usual places.
    pub(crate) fn new(pools: Pools, file: Option<PathBuf>) -> Self {
        Self {
            pools,
            file,
            known: HashMap::new(),
            types: HashMap::new(),
            complained: false,
            overlaps: BTreeSet::new(),
            offered: BTreeMap::new(),
            keeps: false,
        }
    }

    /// Looks up the ids of all devices that are offered and not known yet, in one pass over the file.
    pub(crate) fn learn<'a>(&mut self, devices: impl Iterator<Item = &'a Device>) {
        let mut unknown: Vec<(u16, u16)> = devices
            .filter(|device| self.pools.of(device).is_some_and(|pool| pool.resource.is_none()))
            .map(|device| (device.vendor, device.device))
            .filter(|ids| !self.known.contains_key(ids))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
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

    /// Reads the names of types of vGPUs that are not known yet: once a type, as all of one type are alike.
    pub(crate) fn learn_types<'a>(&mut self, root: &Root, devices: impl Iterator<Item = &'a Device>) {
        for device in devices {
            let Some(kind) = device.vgpu_type else { continue };
            if self.types.contains_key(&kind) || self.pools.of(device).is_none() {
                continue;
            }
            let name = root.vgpu_type_name(device).unwrap_or_else(|error| {
                tracing::warn!(%error, vgpu_type = %kind, "a type of vGPUs goes by its number");
                None
            });
            self.types.insert(kind, type_name(kind.as_str(), name.as_ref().map(Text::as_str)));
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

    /// What the pools are.
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Other pools from now on, as when their file has changed.
    pub(crate) fn set_pools(&mut self, pools: Pools) {
        self.pools = pools;
        self.overlaps.clear();
    }

    /// Whether a device is offered otherwise than the pools say now, because it stays put.
    pub(crate) fn keeps_any(&self) -> bool {
        self.keeps
    }

    /// How each device is offered; none for one that is not. A device that stays put, as one that a pod owns does, stays in
    /// the resource that it was offered by: the kubelet's books name it there.
    pub(crate) fn offers<'a>(
        &mut self,
        devices: impl Iterator<Item = &'a Device>,
        stays: impl Fn(&Device) -> bool,
    ) -> BTreeMap<DeviceId, Offer> {
        let mut offers = BTreeMap::new();
        self.keeps = false;
        for device in devices {
            let meant = self.offer(device);
            let before = self.offered.get(&device.id).filter(|before| Some(*before) != meant.as_ref());
            let offer = match before {
                Some(before) if stays(device) => {
                    self.keeps = true;
                    Some(before.clone())
                }
                _ => meant,
            };
            offers.extend(offer.map(|offer| (device.id, offer)));
        }
        self.offered.clone_from(&offers);
        offers
    }

    /// How the pools offer a device; none if they do not.
    pub(crate) fn offer(&self, device: &Device) -> Option<Offer> {
        let pool = self.pools.of(device)?;
        if device.kind == Kind::VendorVf && device.vgpu_type.is_none() {
            return None; // No vGPU was made of it yet: there is nothing to give.
        }
        let resource = match &pool.resource {
            Some(resource) => resource.clone(),
            None => {
                let model = match device.vgpu_type {
                    Some(kind) => self.types.get(&kind)?,
                    None => self.known.get(&(device.vendor, device.device))?,
                };
                let id = format!("{:04x}", device.device);
                let alias = pool.alias.get(model).or_else(|| pool.alias.get(&id));
                resource_of(device.vendor, alias.unwrap_or(model))
            }
        };
        Some(Offer { resource: resource.into(), backend: pool.backend })
    }
}
