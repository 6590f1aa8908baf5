//! Finds pods and records by ids and names, so that taking in an observation costs linear work.

use crate::assignments::observation::ListedPod;
use crate::assignments::record::Assignment;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The listed pods.
#[derive(Debug, Default)]
pub(super) struct PodLookup<'a> {
    by_name: BTreeMap<&'a str, Vec<&'a ListedPod>>,
    /// The first pod in the list that has an id of a resource, as its place in the list.
    by_id: BTreeMap<(&'a str, &'a str), (usize, &'a ListedPod)>,
}

/// The records, by resource and ids.
#[derive(Debug, Default)]
pub(super) struct RecordLookup(BTreeMap<u64, Vec<usize>>);

impl<'a> PodLookup<'a> {
    /// Indexes this list.
    pub(super) fn new(pods: &'a [ListedPod]) -> Self {
        let mut lookup = Self::default();
        for (place, pod) in pods.iter().enumerate() {
            lookup.by_name.entry(&pod.full_name).or_default().push(pod);
            for ((_, resource), ids) in &pod.devices {
                for id in ids {
                    step();
                    lookup.by_id.entry((resource, id)).or_insert((place, pod));
                }
            }
        }
        lookup
    }

    /// Returns the pods of a name.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &'a ListedPod> {
        self.by_name.get(name).into_iter().flatten().copied().inspect(|_| step())
    }

    /// Returns the name of the first listed pod that has one of the ids.
    pub(super) fn name_of(&self, resource: &str, ids: &BTreeSet<String>) -> Option<&'a str> {
        let pods = ids.iter().filter_map(|id| {
            step();
            self.by_id.get(&(resource, id.as_str()))
        });
        pods.min_by_key(|(place, _)| *place).map(|(_, pod)| &*pod.full_name)
    }
}

impl RecordLookup {
    /// Indexes these records.
    pub(super) fn new(records: &[Assignment]) -> Self {
        let mut lookup = Self::default();
        for (index, record) in records.iter().enumerate() {
            step();
            lookup.add(index, record);
        }
        lookup
    }

    /// Returns the index of the first record with the resource and the checkpoint's ids that is wanted.
    pub(super) fn find(
        &self,
        records: &[Assignment],
        (resource, ids): (&str, &BTreeSet<String>),
        wanted: impl Fn(&Assignment) -> bool,
    ) -> Option<usize> {
        let is_it = |record: &Assignment| {
            record.resource == resource && record.checkpoint_ids == *ids && wanted(record)
        };
        let candidates = self.0.get(&hash(resource, ids)).into_iter().flatten().copied();
        candidates.inspect(|_| step()).find(|&index| records.get(index).is_some_and(is_it))
    }

    /// Adds a record to the records. Returns its index.
    pub(super) fn push(&mut self, records: &mut Vec<Assignment>, record: Assignment) -> usize {
        let index = records.len();
        self.add(index, &record);
        records.push(record);
        index
    }

    fn add(&mut self, index: usize, record: &Assignment) {
        self.0.entry(hash(&record.resource, &record.checkpoint_ids)).or_default().push(index);
    }
}

fn hash(resource: &str, ids: &BTreeSet<String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (resource, ids).hash(&mut hasher);
    hasher.finish()
}

/// Counts one pod, record or id that a lookup reads.
fn step() {
    #[cfg(test)]
    steps::STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(test)]
pub(super) mod steps {
    use std::cell::Cell;

    thread_local! {
        pub(super) static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    /// Returns the number of steps of this thread since the previous call.
    pub(in crate::assignments) fn take() -> usize {
        STEPS.with(Cell::take)
    }
}
