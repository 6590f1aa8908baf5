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

    fn changes(&self, generation: i64, renew: bool) -> Changes {
        let Self { wanted, contents, kept, others } = self;
        let unneeded =
            (0..kept.len()).filter(|place| contents.iter().all(|content| content.stored != Some(*place)));
        let unneeded: Vec<&StoredSlice> = unneeded.filter_map(|place| kept.get(place).copied()).collect();
        let latest = kept.iter().map(|slice| slice.spec().pool.generation).max();
        let pool = |generation| ResourcePool {
            name: wanted.node.clone(),
            generation,
            resource_slice_count: i64::try_from(contents.len()).unwrap_or(i64::MAX),
        };
        let as_stored = latest.filter(|_| !renew).map(|latest| apply(wanted, contents, kept, &pool(latest)));
        let is_new = |slice: &ResourceSlice| slice.metadata.name.is_none();
        let (update, create) = match as_stored {
            // One write at most, and no other slice: a reader sees the pool before or after it.
            Some(slices) if unneeded.is_empty() && slices.len() <= 1 && !slices.iter().any(is_new) => {
                (slices, Vec::new())
            }
            _ => {
                let next = latest.unwrap_or(0).max(generation).saturating_add(1);
                apply(wanted, contents, kept, &pool(next)).into_iter().partition(|slice| !is_new(slice))
            }
        };
        // Slices of the pool that are being deleted need no write. Others of the driver's name are not this pool's.
        let foreign = others.iter().filter(|slice| slice.metadata().deletion_timestamp.is_none());
        let delete = unneeded.iter().chain(foreign).map(|slice| slice.metadata().clone()).collect();
        Changes { delete, update, create }
    }
}

/// Returns the slices with these contents that differ from the stored ones.
fn apply(
    wanted: &Publication,
    contents: &[Content<'_>],
    kept: &[&StoredSlice],
    pool: &ResourcePool,
) -> Vec<ResourceSlice> {
    let slice = |(index, content): (usize, &Content<'_>)| {
        let stored = content.stored.and_then(|place| kept.get(place).copied());
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
        if stored.is_some_and(|stored| stored.is(&slice, devices.clone())) {
            return None;
        }
        slice.spec.devices = Some(devices.collect()).filter(|devices: &Vec<Device>| !devices.is_empty());
        Some(slice)
    };
    contents.iter().enumerate().filter_map(slice).collect()
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
