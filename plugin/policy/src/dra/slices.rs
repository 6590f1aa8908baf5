//! Distributes the entries of a node over ResourceSlices.
//!
//! An entry stays in the slice in which the API server stores it, at its place in the list. So a change of one device changes one
//! slice, and the order changes only for devices that come or go.

use crate::dra::devices::{Entries, Entry};
use crate::dra::names::DraDriver;
use crate::dra::stored::StoredSlice;
use k8s_openapi::api::resource::v1::CounterSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::collections::BTreeMap;

/// The devices of a slice. The API server accepts 128 of them, but only 64 if one has a taint
/// (`ResourceSliceMaxDevicesWithAdvancedFeatures`), and a taint must never need another slice.
pub const MAX_DEVICES: usize = 64;

/// The counter sets of a slice (`ResourceSliceMaxCounterSets`).
pub const MAX_COUNTER_SETS: usize = 8;

/// What a driver publishes of its node: one pool with the node's name.
#[derive(Clone, PartialEq, Debug)]
pub struct Publication {
    /// The driver.
    pub driver: DraDriver,
    /// The Kubernetes node.
    pub node: String,
    /// The reference to the Node object, with which the API server deletes the slices. None if its uid is not known.
    pub owner: Option<OwnerReference>,
    /// The entries of the node's devices.
    pub entries: Entries,
}

/// The content of one slice. It has devices or counters: Kubernetes 1.35 and newer refuse a slice with both.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Content<'a> {
    /// The stored slice that it replaces, by its place in the list of stored slices. None for a new slice.
    pub(super) stored: Option<usize>,
    /// The devices.
    pub(super) devices: Vec<&'a Entry>,
    /// The counter sets.
    pub(super) counter_sets: Vec<&'a CounterSet>,
}

/// Distributes entries over slices. `stored` are the slices that may be kept, in the order of their names. At least one slice is
/// returned. A stored slice that is not returned is not needed any more.
pub(super) fn distribute<'a>(entries: &'a Entries, stored: &[&StoredSlice]) -> Vec<Content<'a>> {
    let devices = kept(
        &entries.devices,
        |entry| entry.name.as_str(),
        stored.iter().map(|slice| slice.devices().iter().map(|device| device.name.as_str())),
        MAX_DEVICES,
    );
    let counter_sets = kept(
        &entries.counter_sets,
        |set| set.name.as_str(),
        stored.iter().map(|slice| slice.counter_sets().map(|set| set.name.as_str())),
        MAX_COUNTER_SETS,
    );
    let with_devices =
        devices.into_iter().map(|(stored, devices)| Content { stored, devices, ..Content::default() });
    let mut contents: Vec<Content<'_>> = with_devices.collect();
    for (stored, counter_sets) in counter_sets {
        // A slice that had both keeps its devices.
        let is_taken = contents.iter().any(|content| content.stored == stored);
        let stored = stored.filter(|_| !is_taken);
        contents.push(Content { stored, counter_sets, ..Content::default() });
    }
    if contents.is_empty() {
        contents.push(Content { stored: (!stored.is_empty()).then_some(0), ..Content::default() });
    }
    // Entries that need a new slice take a stored one that nothing needs, rather than its removal and a creation.
    let unused =
        (0..stored.len()).filter(|place| contents.iter().all(|content| content.stored != Some(*place)));
    let unused: Vec<usize> = unused.collect();
    let new = contents.iter_mut().filter(|content| content.stored.is_none());
    for (content, place) in new.zip(unused) {
        content.stored = Some(place);
    }
    contents
}

/// Distributes items over lists of at most `limit`. An item stays in the stored list that has its name, at its place there. All
/// others fill the first lists with room, and then new lists. Returns the lists that are not empty, each with the place of its
/// stored list.
fn kept<'a, 'b, T>(
    items: &'a [T],
    name: impl Fn(&T) -> &str,
    stored: impl Iterator<Item = impl Iterator<Item = &'b str>>,
    limit: usize,
) -> Vec<(Option<usize>, Vec<&'a T>)> {
    let mut left: BTreeMap<&str, &'a T> = items.iter().map(|item| (name(item), item)).collect();
    let mut lists: Vec<(Option<usize>, Vec<&'a T>)> = Vec::new();
    for (place, names) in stored.enumerate() {
        let mut kept = Vec::new();
        for stored in names {
            if kept.len() < limit
                && let Some(item) = left.remove(stored)
            {
                kept.push(item);
            }
        }
        if !kept.is_empty() {
            lists.push((Some(place), kept));
        }
    }
    let mut new = items.iter().filter(|item| left.contains_key(name(item)));
    for (_, list) in &mut lists {
        let room = limit.saturating_sub(list.len());
        list.extend(new.by_ref().take(room));
    }
    let rest: Vec<&T> = new.collect();
    lists.extend(rest.chunks(limit).map(|chunk| (None, chunk.to_vec())));
    lists
}
