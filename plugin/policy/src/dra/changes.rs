//! Finds the fewest writes after which the API server stores what the driver wants to publish.

use crate::dra::devices::Entry;
use crate::dra::slices::{Content, Publication, distribute};
use crate::dra::stored::StoredSlice;
use k8s_openapi::api::resource::v1::{
    CounterSet, Device, DeviceTaint, ResourcePool, ResourceSlice, ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Limit for `generateName`, in bytes. The API server uses the first 58 of them (`GenerateName` in
/// k8s.io/apiserver/pkg/storage/names), and refuses a longer text.
const MAX_NAME: usize = 253;

/// The writes, to be sent in the order of the fields. Then a device is never in two complete slices.
///
/// While some of the writes are missing, the pool is incomplete: its slices do not all have the newest generation. The scheduler of
/// Kubernetes 1.36 and newer allocates nothing of such a pool (`GatherPools` in k8s.io/dynamic-resource-allocation/structured).
/// That of 1.34 allocates from the slices of the newest generation.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    /// The metadata of stored slices that the pool does not need any more.
    pub delete: Vec<ObjectMeta>,
    /// Stored slices with another content, with the name and the resource version under which they are stored.
    pub update: Vec<ResourceSlice>,
    /// New slices. The API server completes their `generateName`.
    pub create: Vec<ResourceSlice>,
}

impl Changes {
    /// Returns whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.update.is_empty() && self.create.is_empty()
    }
}

/// Returns the writes after which the API server stores `wanted`. `stored` are all slices of the driver that it stores for the node.
/// `generation` is the highest one that this driver has written or seen: slices that were deleted and are created again get a
/// higher one.
///
/// A change of one slice keeps the pool's generation. With more changes, all slices get the next one. The time of a taint that
/// stays is kept, and a stored time is no difference: the API server sets it (`SetDefaults_DeviceTaint`).
pub fn changes<'a>(
    wanted: &'a Publication,
    stored: impl IntoIterator<Item = &'a StoredSlice>,
    generation: i64,
) -> Changes {
    Pool::new(wanted, stored).changes(generation, false)
}

/// Returns the same writes, and one of each slice that could stay as it is, all with the pool's next generation.
///
/// A write without an answer may be carried out after the next answer to a read. The API server refuses it after one of these writes:
/// each has a resource version that is used up then. A slice that such a write creates has an older generation, which the scheduler
/// ignores.
pub fn renewal<'a>(
    wanted: &'a Publication,
    stored: impl IntoIterator<Item = &'a StoredSlice>,
    generation: i64,
) -> Changes {
    Pool::new(wanted, stored).changes(generation, true)
}

/// Returns whether [`changes`] returns any write. Stops at the first difference.
pub fn differ<'a>(wanted: &'a Publication, stored: impl IntoIterator<Item = &'a StoredSlice>) -> bool {
    let pool = Pool::new(wanted, stored);
    let Some(generation) = pool.generation() else { return true };
    pool.unneeded().chain(pool.foreign()).next().is_some() || pool.slices(generation).next().is_some()
}

/// The pool as it is stored, with the contents that its slices are to have.
struct Pool<'a> {
    wanted: &'a Publication,
    contents: Vec<Content<'a>>,
    /// The stored slices of the pool, in the order of their names.
    kept: Vec<&'a StoredSlice>,
    /// Other slices of the driver's name, and slices that are being deleted.
    others: Vec<&'a StoredSlice>,
}

impl<'a> Pool<'a> {
    fn new(wanted: &'a Publication, stored: impl IntoIterator<Item = &'a StoredSlice>) -> Self {
        let belongs = |slice: &StoredSlice| {
            let ResourceSliceSpec { driver, node_name, pool, .. } = slice.spec();
            *driver == wanted.driver.as_str()
                && node_name.as_deref() == Some(wanted.node.as_str())
                && pool.name == wanted.node
        };
        let (mut kept, others): (Vec<&StoredSlice>, Vec<&StoredSlice>) = stored
            .into_iter()
            .partition(|slice| belongs(slice) && slice.metadata().deletion_timestamp.is_none());
        kept.sort_by(|a, b| a.metadata().name.cmp(&b.metadata().name));
        let contents = distribute(&wanted.entries, &kept);
        Self { wanted, contents, kept, others }
    }

    /// Returns the generation of the stored pool. None if nothing is stored.
    fn generation(&self) -> Option<i64> {
        self.kept.iter().map(|slice| slice.spec().pool.generation).max()
    }

    /// Returns the stored slices of the pool that it does not need any more.
    fn unneeded(&self) -> impl Iterator<Item = &'a StoredSlice> {
        let is_unneeded = |place: &usize| self.contents.iter().all(|content| content.stored != Some(*place));
        (0..self.kept.len()).filter(is_unneeded).filter_map(|place| self.kept.get(place).copied())
    }

    /// Returns the slices of the driver's name that are not of this pool. Those that are being deleted need no write.
    fn foreign(&self) -> impl Iterator<Item = &'a StoredSlice> {
        let others = self.others.iter().copied();
        others.filter(|slice| slice.metadata().deletion_timestamp.is_none())
    }

    fn changes(&self, generation: i64, renew: bool) -> Changes {
        let delete = self.unneeded().chain(self.foreign()).map(|slice| slice.metadata().clone()).collect();
        let latest = self.generation();
        if let Some(latest) = latest.filter(|_| !renew && self.unneeded().next().is_none()) {
            let update: Vec<ResourceSlice> = self.slices(latest).take(2).collect();
            // One write at most, and no other slice: a reader sees the pool before or after it.
            if update.len() <= 1 && update.iter().all(is_stored) {
                return Changes { delete, update, create: Vec::new() };
            }
        }
        let next = latest.unwrap_or(0).max(generation).saturating_add(1);
        let (update, create) = self.slices(next).partition(is_stored);
        Changes { delete, update, create }
    }

    /// Returns the slices of a pool of this generation that differ from the stored ones.
    fn slices(&self, generation: i64) -> impl Iterator<Item = ResourceSlice> {
        let pool = ResourcePool {
            name: self.wanted.node.clone(),
            generation,
            resource_slice_count: i64::try_from(self.contents.len()).unwrap_or(i64::MAX),
        };
        let contents = self.contents.iter().enumerate();
        contents.filter_map(move |(index, content)| self.slice(index, content, &pool))
    }

    /// Returns a slice of the pool. None if it is stored as it is to be.
    fn slice(&self, index: usize, content: &Content<'_>, pool: &ResourcePool) -> Option<ResourceSlice> {
        let wanted = self.wanted;
        let stored = content.stored.and_then(|place| self.kept.get(place).copied());
        let metadata = match stored {
            Some(stored) => {
                ObjectMeta { owner_references: owners(wanted, stored), ..stored.metadata().clone() }
            }
            None => new_metadata(wanted, index),
        };
        let devices = content.devices.iter().map(|entry| with_times(entry, stored));
        let spec = ResourceSliceSpec {
            driver: wanted.driver.as_str().to_owned(),
            node_name: Some(wanted.node.clone()),
            pool: pool.clone(),
            shared_counters: Some(content.counter_sets.iter().copied().cloned().collect())
                .filter(|sets: &Vec<CounterSet>| !sets.is_empty()),
            ..ResourceSliceSpec::default()
        };
        let mut slice = ResourceSlice { metadata, spec };
        if stored.is_some_and(|stored| stored.is_equal_to(&slice, devices.clone())) {
            return None;
        }
        slice.spec.devices = Some(devices.collect()).filter(|devices: &Vec<Device>| !devices.is_empty());
        Some(slice)
    }
}

/// Returns whether a slice has a name: the API server gives one to a new slice.
fn is_stored(slice: &ResourceSlice) -> bool {
    slice.metadata.name.is_some()
}

/// Returns the `ownerReferences` of a stored slice. They stay as they are if none is wanted.
fn owners(wanted: &Publication, stored: &StoredSlice) -> Option<Vec<OwnerReference>> {
    match &wanted.owner {
        Some(owner) => Some(vec![owner.clone()]),
        None => stored.metadata().owner_references.clone(),
    }
}

/// Returns the metadata of a new slice. The scheduler tries slices in the order of their names, so the name begins with the place.
fn new_metadata(wanted: &Publication, index: usize) -> ObjectMeta {
    let mut name = format!("{index:05x}-{}-{}", wanted.driver, wanted.node);
    // ASCII, as all of its parts.
    name.truncate(MAX_NAME - 1);
    ObjectMeta {
        generate_name: Some(format!("{}-", name.trim_end_matches(['-', '.']))),
        owner_references: wanted.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Returns an entry as the API's type. Its taint has the time at which the API server stored an equal one.
fn with_times(entry: &Entry, stored: Option<&StoredSlice>) -> Device {
    let mut device = entry.device();
    let mut devices = stored.into_iter().flat_map(StoredSlice::devices);
    let same = devices.find(|stored| stored.name == device.name);
    let known: &[DeviceTaint] = same.map(|stored| stored.taints.as_slice()).unwrap_or_default();
    for taint in device.taints.iter_mut().flatten() {
        let is_same = |stored: &&DeviceTaint| {
            (&stored.key, &stored.value, &stored.effect) == (&taint.key, &taint.value, &taint.effect)
        };
        if let Some(stored) = known.iter().find(is_same) {
            taint.time_added.clone_from(&stored.time_added);
        }
    }
    device
}

#[cfg(test)]
mod tests;
