//! Runs the changes against a stand-in for the API server's store: it names slices, counts versions and sets the times of taints.

use super::*;
use crate::dra::attributes::{DeviceFacts, attributes};
use crate::dra::devices::{Entries, Entry};
use crate::dra::slices::{MAX_COUNTER_SETS, MAX_DEVICES};
use crate::testing::node_of;
use k8s_openapi::api::resource::v1::{Counter, CounterSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the API server stores.
#[derive(Clone, Default)]
struct Store {
    slices: Vec<ResourceSlice>,
    version: i64,
    /// Seconds since 1970. Later than all stored times.
    now: i64,
    created: u32,
    highest: i64,
}

impl Store {
    /// Applies the changes for `wanted`, and checks what holds for all changes.
    fn publish(&mut self, wanted: &Publication) -> Changes {
        let stored = self.stored();
        let changes = changes(wanted, &stored, self.highest);
        assert_eq!(differ(wanted, &stored), !changes.is_empty());
        self.now += 10;
        for slice in &changes.delete {
            let before = self.slices.len();
            self.slices.retain(|stored| stored.metadata.name != slice.name);
            assert_eq!(self.slices.len(), before - 1, "deletes a stored slice");
        }
        for slice in &changes.update {
            let slice = self.accepted(slice);
            let stored =
                self.slices.iter_mut().find(|stored| stored.metadata.name == slice.metadata.name).unwrap();
            assert_ne!(stored.spec.clone(), slice.spec, "an update changes something");
            *stored = slice;
        }
        for slice in &changes.create {
            let mut slice = self.accepted(slice);
            self.created += 1;
            let start = slice.metadata.generate_name.clone().unwrap();
            slice.metadata.name = Some(format!("{start}{:05}", self.created));
            self.slices.push(slice);
        }
        let generations = self.slices.iter().map(|slice| slice.spec.pool.generation);
        self.highest = generations.max().unwrap_or(0).max(self.highest);
        changes
    }

    fn accepted(&mut self, slice: &ResourceSlice) -> ResourceSlice {
        let mut slice = slice.clone();
        self.version += 1;
        slice.metadata.resource_version = Some(self.version.to_string());
        for taint in
            slice.spec.devices.iter_mut().flatten().flat_map(|device| device.taints.iter_mut().flatten())
        {
            let now = || Time(Timestamp::from_second(self.now).unwrap());
            taint.time_added.get_or_insert_with(now);
        }
        slice
    }

    /// Checks that the store has the wanted pool, complete, within the limits.
    fn check(&self, wanted: &Publication) {
        let pools: BTreeSet<_> = self.slices.iter().map(|slice| slice.spec.pool.generation).collect();
        assert_eq!(pools.len(), 1, "one generation");
        for ResourceSlice { spec, .. } in &self.slices {
            assert_eq!(spec.pool.resource_slice_count, i64::try_from(self.slices.len()).unwrap());
            assert!(spec.devices.as_ref().is_none_or(|devices| (1..=MAX_DEVICES).contains(&devices.len())));
            let sets = spec.shared_counters.as_ref();
            assert!(sets.is_none_or(|sets| (1..=MAX_COUNTER_SETS).contains(&sets.len())));
            assert!(spec.devices.is_none() || spec.shared_counters.is_none());
        }
        let mut devices = self.devices();
        devices
            .iter_mut()
            .flat_map(|device| device.taints.iter_mut().flatten())
            .for_each(|taint| taint.time_added = None);
        assert_eq!(sorted(devices), sorted(wanted.entries.devices.iter().map(Entry::device).collect()));
        let sets: Vec<CounterSet> = self
            .slices
            .iter()
            .flat_map(|slice| slice.spec.shared_counters.clone().unwrap_or_default())
            .collect();
        assert_eq!(sorted_sets(sets), sorted_sets(wanted.entries.counter_sets.clone()));
    }

    fn stored(&self) -> Vec<StoredSlice> {
        self.slices.iter().cloned().map(StoredSlice::from).collect()
    }

    fn devices(&self) -> Vec<Device> {
        self.slices.iter().flat_map(|slice| slice.spec.devices.clone().unwrap_or_default()).collect()
    }
}

fn sorted(mut devices: Vec<Device>) -> Vec<Device> {
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

fn sorted_sets(mut sets: Vec<CounterSet>) -> Vec<CounterSet> {
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    sets
}

fn wanted(devices: Vec<Entry>, counter_sets: Vec<CounterSet>) -> Publication {
    let entries = Entries { devices, counter_sets, left_out: Vec::new() };
    Publication {
        driver: "vfio.example.com".parse().unwrap(),
        node: "node-1".to_owned(),
        owner: None,
        entries,
    }
}

fn device(number: u16) -> Entry {
    Entry { name: format!("pci-0000-{:02x}-{:02x}-0", number >> 5, number & 31), ..Entry::default() }
}

fn tainted(number: u16, value: &str) -> Entry {
    let taint = DeviceTaint {
        effect: "NoSchedule".to_owned(),
        key: "vfio.example.com/held".to_owned(),
        time_added: None,
        value: Some(value.to_owned()),
    };
    Entry { taint: Some(taint), ..device(number) }
}

fn set(number: u16) -> CounterSet {
    let one = Counter { value: k8s_openapi::apimachinery::pkg::api::resource::Quantity("1".to_owned()) };
    CounterSet { name: format!("groups-{number}"), counters: BTreeMap::from([("g1".to_owned(), one)]) }
}

fn counts(changes: &Changes) -> (usize, usize, usize) {
    (changes.delete.len(), changes.update.len(), changes.create.len())
}

fn any_wanted() -> impl Strategy<Value = Publication> {
    let attributes = Arc::new(attributes(&node_of(1).devices[0], &DeviceFacts::default()));
    let devices = prop::collection::btree_map(0..200_u16, 0..4_u8, 0..150).prop_map(move |devices| {
        let entry = |(number, kind)| match kind {
            0 => tainted(number, "qemu.1"),
            1 => tainted(number, "qemu.2"),
            2 => Entry { attributes: Arc::clone(&attributes), ..device(number) },
            _ => device(number),
        };
        devices.into_iter().map(entry).collect::<Vec<_>>()
    });
    let sets =
        prop::collection::btree_set(0..30_u16, 0..20).prop_map(|sets| sets.into_iter().map(set).collect());
    (devices, sets).prop_map(|(devices, sets): (Vec<Entry>, Vec<CounterSet>)| wanted(devices, sets))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn store_has_the_wanted_pool_and_then_nothing_is_written(
        steps in prop::collection::vec((any_wanted(), any::<prop::sample::Index>(), 0..4_u8), 1..6)
    ) {
        let mut store = Store::default();
        for (wanted, place, accident) in steps {
            // Another program deletes or edits a slice, as the kubelet does at its start.
            let place = (!store.slices.is_empty()).then(|| place.index(store.slices.len()));
            match (accident, place) {
                (0, Some(_)) => store.slices.clear(),
                (1, Some(place)) => drop(store.slices.remove(place)),
                (2, Some(place)) => store.slices[place].spec.pool.generation += 1,
                _ => {}
            }
            store.publish(&wanted);
            store.check(&wanted);
            let again = store.publish(&wanted);
            prop_assert!(again.is_empty(), "{again:?}");
        }
    }

    #[test]
    fn change_of_one_device_is_one_update_of_the_same_generation(
        publication in any_wanted(), place in any::<prop::sample::Index>()
    ) {
        prop_assume!(!publication.entries.devices.is_empty());
        let mut store = Store::default();
        store.publish(&publication);
        let generation = store.highest;
        let mut changed = publication.clone();
        let place = place.index(changed.entries.devices.len());
        changed.entries.devices[place].taint = tainted(0, "another.3").taint;
        let changes = store.publish(&changed);
        prop_assert_eq!(counts(&changes), (0, 1, 0));
        prop_assert_eq!(changes.update[0].spec.pool.generation, generation);
        store.check(&changed);
    }

    #[test]
    fn writes_are_the_slices_that_differ(before in any_wanted(), after in any_wanted()) {
        let mut store = Store::default();
        store.publish(&before);
        let old = store.slices.clone();
        let changes = store.publish(&after);
        // With more than one write every slice gets the next generation. With one, the others are as before.
        let (delete, update, create) = counts(&changes);
        if delete + create == 0 && update <= 1 {
            let same = store.slices.iter().filter(|slice| old.contains(slice)).count();
            prop_assert_eq!(same + update, store.slices.len());
        } else {
            prop_assert_eq!(update + create, store.slices.len());
            // More than one stored slice had to change, or the number of slices did.
            let content = |slices: &[ResourceSlice]| -> Vec<_> {
                let mut all: Vec<_> = slices.iter().map(|slice| (slice.metadata.name.clone(), slice.spec.devices.clone(), slice.spec.shared_counters.clone())).collect();
                all.sort_by(|a, b| a.0.cmp(&b.0));
                all
            };
            let (old, new) = (content(&old), content(&store.slices));
            let differ = new.iter().filter(|slice| !old.contains(slice)).count();
            prop_assert!(old.len() != new.len() || differ > 1, "{differ}");
        }
    }
}

#[test]
fn node_without_devices_has_one_empty_slice() {
    let mut store = Store::default();
    assert_eq!(counts(&store.publish(&wanted(Vec::new(), Vec::new()))), (0, 0, 1));
    assert_eq!(store.slices[0].spec.devices, None);
    assert_eq!(
        counts(&store.publish(&wanted(vec![device(1)], Vec::new()))),
        (0, 1, 0),
        "the empty slice is used"
    );
    assert_eq!(counts(&store.publish(&wanted(Vec::new(), Vec::new()))), (0, 1, 0));
}

#[test]
fn new_slice_is_named_by_its_place_driver_and_node() {
    let devices = (0..130).map(device).collect();
    let mut store = Store::default();
    let made = store.publish(&wanted(devices, vec![set(1)]));
    let names: Vec<_> =
        made.create.iter().map(|slice| slice.metadata.generate_name.clone().unwrap()).collect();
    let name = |index: u8| format!("0000{index}-vfio.example.com-node-1-");
    assert_eq!(names, [name(0), name(1), name(2), name(3)]);
    let sizes: Vec<_> = made.create.iter().map(|slice| slice.spec.devices.as_ref().map(Vec::len)).collect();
    assert_eq!(sizes, [Some(64), Some(64), Some(2), None]);
}

#[test]
fn name_of_a_long_node_is_cut() {
    let node = format!("{}.{}", "n".repeat(181), "n".repeat(71));
    let mut publication = wanted(Vec::new(), Vec::new());
    for (node, length) in [(node.as_str(), 253), (&format!("{}.{}", "n".repeat(228), "n".repeat(24)), 252)] {
        publication.node = node.to_owned();
        let name = changes(&publication, &[], 0).create[0].metadata.generate_name.clone().unwrap();
        assert_eq!((name.len(), name.ends_with("n-")), (length, true), "{name}");
    }
}

#[test]
fn device_that_comes_or_goes_changes_no_other_slice() {
    let devices: Vec<Entry> = (10..110).map(device).collect();
    let mut store = Store::default();
    store.publish(&wanted(devices.clone(), Vec::new()));
    let before = store.slices.clone();
    let mut with_first = devices.clone();
    with_first.insert(0, device(0));
    assert_eq!(
        counts(&store.publish(&wanted(with_first, Vec::new()))),
        (0, 1, 0),
        "into the slice with room"
    );
    assert_eq!(store.slices[0], before[0]);
    let without: Vec<Entry> = devices.into_iter().skip(1).collect();
    store.publish(&wanted(without.clone(), Vec::new()));
    assert_eq!(store.slices[0].spec.devices.as_ref().unwrap().len(), 63);
    store.check(&wanted(without, Vec::new()));
}

#[test]
fn taint_keeps_its_time_until_it_changes() {
    let times = |store: &Store| {
        let taints = store.devices().into_iter().flat_map(|device| device.taints.unwrap_or_default());
        taints.map(|taint| taint.time_added.unwrap().0.as_second()).collect::<Vec<_>>()
    };
    let mut store = Store::default();
    store.publish(&wanted(vec![tainted(1, "qemu.1"), device(2)], Vec::new()));
    assert_eq!(times(&store), [10]);
    store.publish(&wanted(vec![tainted(1, "qemu.1"), tainted(2, "qemu.1")], Vec::new()));
    assert_eq!(times(&store), [10, 20]);
    store.publish(&wanted(vec![tainted(1, "other.2"), tainted(2, "qemu.1")], Vec::new()));
    assert_eq!(times(&store), [30, 20]);
}

#[test]
fn slices_that_were_deleted_come_back_with_a_higher_generation() {
    let publication = wanted((0..70).map(device).collect(), Vec::new());
    let mut store = Store::default();
    store.publish(&publication);
    store.slices.clear();
    let changes = store.publish(&publication);
    assert_eq!(counts(&changes), (0, 0, 2));
    assert!(changes.create.iter().all(|slice| slice.spec.pool.generation == 2));
}

#[test]
fn slices_of_another_pool_are_deleted() {
    let publication = wanted(vec![device(1)], Vec::new());
    let mut store = Store::default();
    store.publish(&publication);
    let mut other = store.slices[0].clone();
    other.metadata.name = Some("other".to_owned());
    other.spec.pool.name = "other".to_owned();
    store.slices.push(other);
    assert_eq!(counts(&store.publish(&publication)), (1, 0, 0));
    store.check(&publication);
}

#[test]
fn device_that_two_slices_have_stays_in_one() {
    let publication = wanted(vec![device(1)], Vec::new());
    let mut store = Store::default();
    store.publish(&publication);
    let mut copy = store.slices[0].clone();
    copy.metadata.name = Some("zzz".to_owned());
    store.slices.push(copy);
    store.publish(&publication);
    store.check(&publication);
}

#[test]
fn slice_that_is_being_deleted_is_replaced() {
    let publication = wanted(vec![device(1)], Vec::new());
    let mut store = Store::default();
    store.publish(&publication);
    store.slices[0].metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    assert_eq!(counts(&changes(&publication, &store.stored(), 1)), (0, 0, 1));
}

#[test]
fn node_reference_is_set_on_stored_slices_too() {
    let mut publication = wanted(vec![device(1)], Vec::new());
    let mut store = Store::default();
    store.publish(&publication);
    publication.owner =
        Some(OwnerReference { uid: "u1".to_owned(), name: "node-1".to_owned(), ..OwnerReference::default() });
    let made = changes(&publication, &store.stored(), 1);
    assert_eq!(counts(&made), (0, 1, 0));
    assert_eq!(made.update[0].metadata.owner_references.as_ref().unwrap()[0].uid, "u1");
    publication.owner = None;
    assert!(
        changes(&publication, &[made.update[0].clone().into()], 1).is_empty(),
        "a reference that is not known stays"
    );
}

#[test]
fn slice_that_another_program_edited_is_written_again() {
    let publication = wanted(vec![device(1)], Vec::new());
    let mut store = Store::default();
    store.publish(&publication);
    store.slices[0].spec.all_nodes = Some(true);
    store.slices[0].spec.devices.as_mut().unwrap().push(device(9).device());
    assert_eq!(counts(&store.publish(&publication)), (0, 1, 0));
    store.check(&publication);
}

#[test]
fn renewal_writes_each_slice_with_the_next_generation() {
    let publication = wanted((0..70).map(device).collect(), Vec::new());
    let mut store = Store::default();
    store.publish(&publication);
    let made = renewal(&publication, &store.stored(), 5);
    assert_eq!(counts(&made), (0, 2, 0), "also of slices that are as they should be");
    assert!(made.update.iter().all(|slice| slice.spec.pool.generation == 6));
    assert!(made.update.iter().all(|slice| slice.metadata.resource_version.is_some()));
    assert_eq!(counts(&renewal(&publication, &[], 5)), (0, 0, 2));
}
