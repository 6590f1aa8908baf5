//! Decides what ResourceSlices say of each device, and the counters of groups that several devices share.

use crate::dra::attributes::Attributes;
use crate::dra::names::{DraDriver, device_name};
use crate::dra::taints::Withheld;
use k8s_openapi::api::resource::v1::{
    Counter, CounterSet, Device, DeviceCounterConsumption, DeviceTaint, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_probe::{DeviceId, GroupId};

/// Groups whose counters are in one set. A set has at most 32 counters (`ResourceSliceMaxCountersPerCounterSet`).
const GROUPS_OF_A_SET: u32 = 32;

/// What the API server stores of a ResourceSlice. It drops the fields of features that are off, without an error
/// (`dropDisabledFields` in pkg/registry/resource/resourceslice).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Features {
    /// Taints (`DRADeviceTaints`).
    pub taints: bool,
    /// Counters in a slice of their own (`DRAPartitionableDevices` of Kubernetes 1.35 and newer).
    pub counters: bool,
}

impl Features {
    /// Returns what Kubernetes 1.`minor` stores by default (pkg/features/kube_features.go): both from 1.36 on.
    pub fn of_minor(minor: u32) -> Self {
        Self { taints: minor >= 36, counters: minor >= 36 }
    }

    /// No feature.
    pub const NONE: Self = Self { taints: false, counters: false };

    /// Returns the features whose fields a slice has.
    pub fn used_by(slice: &ResourceSlice) -> Self {
        Self {
            taints: any_device(slice, |device| is_some(&device.taints)),
            counters: is_some(&slice.spec.shared_counters)
                || any_device(slice, |device| is_some(&device.consumes_counters)),
        }
    }

    /// Returns whether `others` has all of these features.
    pub fn all_in(self, others: Self) -> bool {
        (!self.taints || others.taints) && (!self.counters || others.counters)
    }

    /// Returns the features of both.
    #[must_use]
    pub fn with(self, others: Self) -> Self {
        Self { taints: self.taints || others.taints, counters: self.counters || others.counters }
    }

    /// Returns these features without those whose fields the API server dropped: `stored` is its answer to `sent`.
    pub fn without_dropped(self, sent: &ResourceSlice, stored: &ResourceSlice) -> Self {
        let (sent, stored) = (Self::used_by(sent), Self::used_by(stored));
        Self {
            taints: self.taints && (!sent.taints || stored.taints),
            counters: self.counters && (!sent.counters || stored.counters),
        }
    }
}

fn is_some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn any_device(slice: &ResourceSlice, condition: impl Fn(&Device) -> bool) -> bool {
    slice.spec.devices.iter().flatten().any(condition)
}

/// A device that the driver publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The device.
    pub id: DeviceId,
    /// Its IOMMU group.
    pub group: Option<GroupId>,
    /// Its attributes, shared by all that list the device.
    pub attributes: Arc<Attributes>,
    /// Why the scheduler must not allocate it. None if it may.
    pub withheld: Option<Withheld>,
    /// Whether a prepared claim has it. It is listed then, whatever the API server stores.
    pub prepared: bool,
}

/// What a slice says of a device. It shares the attributes, which take seven kilobytes as the API's types.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Entry {
    /// The name in the slice.
    pub name: String,
    /// The attributes.
    pub attributes: Arc<Attributes>,
    /// Why the scheduler must not allocate the device. None if it may.
    pub taint: Option<DeviceTaint>,
    /// The group whose counter the device consumes.
    pub counter: Option<GroupId>,
}

impl Entry {
    /// Returns the entry as the API's type.
    pub fn device(&self) -> Device {
        let consumption = |group| DeviceCounterConsumption {
            compatibility_groups: None,
            counter_set: set_name(group),
            counters: BTreeMap::from([(counter_name(group), one())]),
        };
        Device {
            name: self.name.clone(),
            attributes: (!self.attributes.is_empty()).then(|| self.attributes.by_name()),
            taints: self.taint.clone().map(|taint| vec![taint]),
            consumes_counters: self.counter.map(|group| vec![consumption(group)]),
            ..Device::default()
        }
    }
}

/// The entries of a node's devices.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Entries {
    /// The devices, in the order of preference.
    pub devices: Vec<Entry>,
    /// The counters of groups with several listed devices.
    pub counter_sets: Vec<CounterSet>,
    /// The devices that are not listed, because the API server does not store their taint.
    pub left_out: Vec<DeviceId>,
}

/// Returns the entries of these devices, in their order.
///
/// A group with several listed devices has a counter with the value 1, and each of its devices consumes 1 of it. So the scheduler
/// never allocates two of them. Groups of one listed device need no counter.
pub fn entries(driver: &DraDriver, listed: &[Listed], features: Features) -> Entries {
    let mut entries = Entries::default();
    let mut kept: Vec<&Listed> = Vec::new();
    for device in listed {
        match device.withheld {
            Some(_) if !features.taints && !device.prepared => entries.left_out.push(device.id),
            _ => kept.push(device),
        }
    }
    let mut members: BTreeMap<GroupId, usize> = BTreeMap::new();
    let counted = |device: &Listed| device.group.filter(|_| features.counters);
    for group in kept.iter().filter_map(|device| counted(device)) {
        *members.entry(group).or_default() += 1;
    }
    members.retain(|_, count| *count > 1);
    entries.counter_sets = counter_sets(members.keys().copied());
    entries.devices = kept
        .into_iter()
        .map(|device| {
            let group = counted(device).filter(|group| members.contains_key(group));
            entry(driver, device, group, features)
        })
        .collect();
    entries
}

/// Returns whether [`entries`] returns the same for both lists.
///
/// False is also an answer for lists that only may differ. Without stored taints a prepared device is listed where another one is left
/// out; with them a claim changes no entry.
pub fn have_same_entries(some: &[Listed], others: &[Listed], features: Features) -> bool {
    let is_same = |one: &Listed, other: &Listed| {
        let Listed { id, group, attributes, withheld, prepared } = one;
        *id == other.id
            && *group == other.group
            && *withheld == other.withheld
            && (features.taints || *prepared == other.prepared)
            // Two that are shared are equal by their address.
            && *attributes == other.attributes
    };
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| is_same(one, other))
}

fn entry(driver: &DraDriver, listed: &Listed, counter: Option<GroupId>, features: Features) -> Entry {
    let withheld = listed.withheld.as_ref().filter(|_| features.taints);
    Entry {
        name: device_name(listed.id),
        attributes: Arc::clone(&listed.attributes),
        taint: withheld.map(|withheld| withheld.taint(driver)),
        counter,
    }
}

/// Returns the counters of these groups, in sets. The set of a group depends on its number alone, so that a new group changes one
/// set.
fn counter_sets(groups: impl Iterator<Item = GroupId>) -> Vec<CounterSet> {
    let mut sets: BTreeMap<u32, CounterSet> = BTreeMap::new();
    for group in groups {
        let set = sets
            .entry(group.0 / GROUPS_OF_A_SET)
            .or_insert_with(|| CounterSet { name: set_name(group), counters: BTreeMap::new() });
        set.counters.insert(counter_name(group), one());
    }
    sets.into_values().collect()
}

fn set_name(group: GroupId) -> String {
    format!("groups-{}", group.0 / GROUPS_OF_A_SET)
}

fn counter_name(group: GroupId) -> String {
    format!("g{group}")
}

fn one() -> Counter {
    Counter { value: Quantity("1".to_owned()) }
}

#[cfg(test)]
mod tests;
