//! The assignments at one moment, by device: the pod that a device is assigned to, and the pod that blocks it.

use crate::assignments::claims::{Claim, ClaimedDevices};
use crate::assignments::ledger::Ledger;
use crate::assignments::record::Assignment;
use crate::assignments::reserved::{AssignedDevices, AssignedResource, PinnedOffer};
use crate::assignments::shards::Shards;
use crate::device::DeviceState;
use crate::kubelet_id::KubeletDeviceId;
use crate::pools::terms::OfferBy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vfio_probe::{DeviceId, GroupId};

/// The assignments at one moment.
///
/// [`with_allocates`](Self::with_allocates) adds those of one Allocate. It shares everything else with the value before, so that
/// an Allocate does not pay for the assignments of other devices.
#[derive(Clone, Debug, Default)]
pub struct Assignments {
    /// Whether the assignments are known: the last poll got an answer from pod resources or from the checkpoint.
    pub known: bool,
    ledger: Arc<LedgerIndex>,
    /// The latest record of each device, in the ledger or of a later Allocate.
    devices: Shards<Latest>,
    /// Devices with more than one record. If the latest is replaced, another one may count.
    ambiguous: Arc<BTreeSet<DeviceId>>,
    /// Whether any Allocate was added that the ledger does not have.
    has_allocates: bool,
    /// The prepared claims, whose assignments the ledger does not have.
    claims: Arc<[ClaimedDevices]>,
}

/// The ledger's records.
#[derive(Debug, Default)]
struct LedgerIndex {
    records: Vec<Arc<Assignment>>,
    /// The records of groups, for the ids of older plugins, which are groups' numbers. They count within their resource only.
    groups: BTreeMap<(String, GroupId), Arc<Assignment>>,
}

/// The latest record of a device.
#[derive(Clone, Debug)]
struct Latest {
    record: Arc<Assignment>,
    /// Whether the ledger does not have it yet.
    is_added: bool,
}

impl Assignments {
    /// Indexes the ledger's assignments.
    pub fn new(known: bool, ledger: &Ledger) -> Self {
        let records: Vec<Arc<Assignment>> = ledger.assignments().iter().cloned().map(Arc::new).collect();
        let (mut devices, mut groups, mut ambiguous) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for record in &records {
            for id in &record.device_ids {
                match id.parse() {
                    Ok(KubeletDeviceId::Device(id)) => {
                        let latest = Latest { record: Arc::clone(record), is_added: false };
                        if devices.insert(id, latest).is_some() {
                            ambiguous.insert(id);
                        }
                    }
                    Ok(KubeletDeviceId::Group(group)) => {
                        groups.insert((record.resource.clone(), group), Arc::clone(record));
                    }
                    Err(_) => {}
                }
            }
        }
        let ledger = Arc::new(LedgerIndex { records, groups });
        let devices = devices.into_iter().collect();
        Self {
            known,
            ledger,
            devices,
            ambiguous: Arc::new(ambiguous),
            has_allocates: false,
            claims: Arc::default(),
        }
    }

    /// Returns the ledger's assignments with those of the prepared claims. Where a claim and the ledger have the same device, the
    /// claim counts.
    #[must_use]
    pub fn with_claims(mut self, claims: &Arc<[ClaimedDevices]>) -> Self {
        self.claims = Arc::clone(claims);
        for ClaimedDevices { assignment: record, .. } in claims.iter() {
            for id in record.device_ids.iter().filter_map(|id| id.parse().ok()) {
                self.devices.insert(id, Latest { record: Arc::clone(record), is_added: false });
            }
        }
        self
    }

    /// Returns the assignments with those of one more Allocate. Returns none if the ledger has to take it in first: another
    /// record of one of its devices may count again.
    ///
    /// The cost depends on the devices of the Allocate, not on those of other assignments.
    pub fn with_allocates(&self, allocates: &[Arc<Assignment>]) -> Option<Self> {
        let mut next = self.clone();
        next.has_allocates |= !allocates.is_empty();
        for record in allocates {
            if record.device_ids != record.checkpoint_ids {
                return None;
            }
            for id in &record.device_ids {
                let id = id.parse().ok().and_then(KubeletDeviceId::device)?;
                if next.ambiguous.contains(&id) {
                    return None;
                }
                let latest = Latest { record: Arc::clone(record), is_added: true };
                match next.devices.insert(id, latest) {
                    // It stays the record of its pod until the kubelet shows that the pod has ended.
                    Some(before) if !before.record.is_unconfirmed() => {
                        Arc::make_mut(&mut next.ambiguous).insert(id);
                    }
                    // It ends with this Allocate, for all its devices.
                    Some(Latest { record: before, .. }) => {
                        let is_covered = before.device_ids.is_subset(&record.device_ids);
                        if !is_covered || before.device_ids != before.checkpoint_ids {
                            return None;
                        }
                    }
                    None => {}
                }
            }
        }
        Some(next)
    }

    /// Returns the Allocates that were added, each once.
    pub fn added(&self) -> Vec<Arc<Assignment>> {
        if !self.has_allocates {
            return Vec::new();
        }
        let mut added = BTreeMap::new();
        for (_, latest) in self.devices.iter().filter(|(_, latest)| latest.is_added) {
            // They have no device in common.
            added.entry(latest.record.device_ids.first()).or_insert_with(|| Arc::clone(&latest.record));
        }
        added.into_values().collect()
    }

    /// Returns all assignments of the ledger. The kubelet stores no answer yet for an Allocate that was added since.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Assignment> {
        self.ledger.records.iter().map(|record| &**record)
    }

    /// Returns whether a stored answer names a node that is compared with [`crate::device::NodeSnapshot::special`].
    pub fn name_special_nodes(&self) -> bool {
        self.records().any(|record| record.answer.names_special_nodes())
    }

    /// Returns each assigned device with the resource of its latest assignment, in no order. Leaves out the ids of older plugins,
    /// which are groups' numbers.
    pub fn devices(&self) -> impl Iterator<Item = (DeviceId, &str)> {
        self.devices.iter().map(|(id, latest)| (id, latest.record.resource.as_str()))
    }

    /// Returns the assignment of a device, under any resource.
    pub fn assignment(&self, device: &DeviceState) -> Option<&Assignment> {
        let groups = &self.ledger.groups;
        let by_group =
            || groups.get(&(device.resource.to_string(), device.device.group?)).map(|record| &**record);
        let by_device = self.devices.get(device.device.id).map(|latest| &*latest.record);
        by_device.or_else(|| if groups.is_empty() { None } else { by_group() })
    }

    /// Returns whether the device is assigned to a pod under its own resource, and so counts as requested of that resource.
    pub fn counts_as_requested(&self, device: &DeviceState) -> bool {
        self.assignment(device).is_some_and(|assignment| *assignment.resource == *device.resource)
    }

    /// Returns the assignment that keeps a device from other pods: that of a group peer, or its own under another resource, with
    /// the assigned device. `all` are the devices among which to search for peers.
    ///
    /// A peer allocated in the same call does not block the device: when the kubelet asks for one of them again, it has released
    /// both.
    pub fn blocker<'a>(
        &'a self,
        device: &DeviceState,
        all: impl IntoIterator<Item = &'a DeviceState>,
    ) -> Option<(DeviceId, &'a Assignment)> {
        let own = self.assignment(device);
        if let Some(assignment) = own.filter(|_| !self.counts_as_requested(device)) {
            return Some((device.device.id, assignment));
        }
        let group = device.device.group?;
        let peers = all.into_iter().filter(|peer| peer.device.group == Some(group));
        peers
            .filter(|peer| peer.device.id != device.device.id)
            .filter_map(|peer| Some((peer.device.id, self.assignment(peer)?)))
            .filter(|(_, assignment)| !assignment.device_ids.contains(&device.device.id.to_string()))
            .find(|(_, assignment)| !own.is_some_and(|own| own.shares_pod_with(assignment)))
    }

    /// Returns the assignment in which the device substitutes another one. The kubelet's checkpoint shows such a device as free.
    pub fn substituted_for(&self, device: &DeviceState) -> Option<&Assignment> {
        let record = &*self.devices.get(device.device.id)?.record;
        let is_same = record.device_ids == record.checkpoint_ids;
        let is_substitute = || !record.checkpoint_ids.contains(&device.device.id.to_string());
        (!is_same && is_substitute()).then_some(record)
    }

    /// Returns the devices that substitute an id in the last assignment of the id. While that assignment exists, the kubelet
    /// requests the id only for the same pod: for another container that takes over the devices of an init container.
    pub fn substitutes_of<'a>(&'a self, resource: &'a str, id: DeviceId) -> impl Iterator<Item = DeviceId> {
        let text = id.to_string();
        let has_id =
            |record: &&Assignment| record.resource == resource && record.checkpoint_ids.contains(&text);
        // An added Allocate is later than all records of the ledger.
        let added = self.devices.get(id).filter(|latest| latest.is_added).map(|latest| &*latest.record);
        let recorded = || self.ledger.records.iter().rev().map(|record| &**record).find(has_id);
        let last = added.filter(has_id).or_else(recorded);
        let substitutes = last.into_iter().flat_map(|last| last.device_ids.difference(&last.checkpoint_ids));
        substitutes.filter_map(|id| id.parse().ok())
    }

    /// Returns the `namespace/name` of a pod with an assignment, by its uid.
    pub fn pod_name(&self, uid: &str) -> Option<&str> {
        // An added Allocate names no pod.
        let claims = self.claims.iter().map(|claimed| &claimed.assignment);
        let mut pods = self.ledger.records.iter().chain(claims).map(|record| &record.pod);
        pods.find(|pod| pod.uid.as_deref() == Some(uid) && pod.full_name.is_some())?.full_name.as_deref()
    }

    /// Returns the prepared claim that has the device.
    pub fn claim(&self, device: &DeviceState) -> Option<&Claim> {
        self.claim_of(self.assignment(device)?)
    }

    /// Returns the prepared claim that an assignment of this value belongs to.
    pub fn claim_of(&self, assignment: &Assignment) -> Option<&Claim> {
        let mut claims = self.claims.iter();
        let claimed = claims.find(|claimed| std::ptr::eq(&*claimed.assignment, assignment))?;
        Some(&claimed.claim)
    }

    /// Returns the assignment in words: its claim, or else its pod.
    pub fn describe(&self, assignment: &Assignment) -> String {
        let claim = self.claim_of(assignment);
        claim.map_or_else(|| assignment.pod.to_string(), ToString::to_string)
    }

    /// Returns whether the device is in a prepared claim.
    pub fn is_claimed(&self, device: &DeviceState) -> bool {
        self.claim(device).is_some()
    }

    /// Returns how the device is offered now. One that a prepared claim has stays with the DRA driver, whatever its pool says.
    pub fn offer_of(&self, device: &DeviceState) -> OfferBy {
        if self.is_claimed(device) { OfferBy::Dra } else { device.terms.offer }
    }

    /// Returns whether a device without an assignment is assigned to no pod.
    ///
    /// The kubelet has each claim prepared before it starts a container. So that is known of a device that the DRA driver offers, also
    /// before the kubelet was polled.
    pub fn knows(&self, device: &DeviceState) -> bool {
        self.known || device.terms.offer == OfferBy::Dra
    }

    /// Returns whether nothing is assigned.
    pub fn is_empty(&self) -> bool {
        self.ledger.records.is_empty() && !self.has_allocates && self.claims.is_empty()
    }

    /// Returns whether `other` differs in nothing but the times at which the kubelet last showed each assignment.
    pub fn differs_only_in_time(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.ledger.records, &other.ledger.records);
        self.known == other.known
            && self.claims == other.claims
            && !self.has_allocates
            && !other.has_allocates
            && mine.len() == theirs.len()
            && mine.iter().zip(theirs).all(|(mine, theirs)| mine.differs_only_in_time(theirs))
    }

    /// Returns how Allocates pin the offers of their devices.
    pub fn pinned_by(allocates: &[Arc<Assignment>]) -> Vec<(DeviceId, PinnedOffer)> {
        let mut offers = Vec::new();
        for record in allocates {
            let Some(pinned) = record.pinned else { continue };
            let resource: Arc<str> = record.resource.as_str().into();
            let ids = record.device_ids.iter().filter_map(|id| id.parse().ok());
            offers.extend(ids.map(|id| (id, PinnedOffer { resource: Arc::clone(&resource), pinned })));
        }
        offers
    }

    /// Returns what the monitor must not probe and must keep offering as it is.
    pub fn reserved(&self) -> AssignedDevices {
        let mut devices: Vec<(DeviceId, &Assignment)> =
            self.devices.iter().map(|(id, latest)| (id, &*latest.record)).collect();
        devices.sort_unstable_by_key(|(id, _)| *id);
        let pinned_offer = |(id, record): &(DeviceId, &Assignment)| {
            Some((*id, PinnedOffer { resource: record.resource.as_str().into(), pinned: record.pinned? }))
        };
        let resources = resources(&devices);
        AssignedDevices {
            groups: self.ledger.groups.keys().map(|(_, group)| *group).collect(),
            pinned_offers: devices.iter().filter_map(pinned_offer).collect(),
            devices: devices.into_iter().map(|(id, _)| id).collect(),
            resources,
        }
    }
}

/// Returns the resource of each assigned device.
fn resources(devices: &[(DeviceId, &Assignment)]) -> BTreeMap<DeviceId, AssignedResource> {
    let mut known: BTreeMap<&str, Arc<str>> = BTreeMap::new();
    let mut resources = BTreeMap::new();
    for &(id, record) in devices {
        let name = record.resource.as_str();
        let resource = Arc::clone(known.entry(name).or_insert_with(|| name.into()));
        let is_of_this_plugin = record.is_of_this_plugin();
        resources.insert(id, AssignedResource { resource, is_of_this_plugin });
    }
    resources
}

#[cfg(test)]
mod tests;
