//! Pure: who owns what at one moment, and whose it is that keeps a device from being given away.

use crate::assignments::ledger::Ledger;
use crate::assignments::record::Assignment;
use crate::assignments::reserved::{AssignedDevices, PinnedOffer};
use crate::device::DeviceState;
use std::collections::BTreeMap;
use vfio_probe::{DeviceId, GroupId};

/// Who owns what, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Assignments {
    /// The kubelet's answer to either question has been had at the latest asking.
    pub told: bool,
    given: Vec<Assignment>,
    devices: BTreeMap<DeviceId, usize>,
    /// By an older plugin's ids, which are numbers of groups; only of the same resource.
    groups: BTreeMap<(String, GroupId), usize>,
}

impl Assignments {
    /// As the ledger has it.
    pub fn new(told: bool, ledger: &Ledger) -> Self {
        let given = ledger.given().to_vec();
        let mut ownership = Self { told, ..Self::default() };
        for (place, known) in given.iter().enumerate() {
            for id in &known.real {
                if let Ok(device) = id.parse::<DeviceId>() {
                    ownership.devices.insert(device, place);
                } else if let Ok(group) = id.parse::<GroupId>() {
                    ownership.groups.insert((known.resource.clone(), group), place);
                }
            }
        }
        Self { given, ..ownership }
    }

    /// What gave a device away, under whichever resource.
    pub fn assignment(&self, view: &DeviceState) -> Option<&Assignment> {
        let by_group = || self.groups.get(&(view.resource.to_string(), view.device.group?));
        let by_group = if self.groups.is_empty() { None } else { by_group() };
        self.devices.get(&view.device.id).or(by_group).and_then(|&place| self.given.get(place))
    }

    /// Whether a pod owns the device and it is counted in what is requested of its resource.
    pub fn counts_as_requested(&self, view: &DeviceState) -> bool {
        self.assignment(view).is_some_and(|given| *given.resource == *view.resource)
    }

    /// Who keeps a device from others: another member of its group that a pod owns, or itself, given away as another
    /// resource. `all` are the devices to look among.
    ///
    /// What was given away together with the device keeps it from nobody: whoever is asked for the one knows that both are
    /// back.
    pub fn blocker<'a>(
        &'a self,
        view: &DeviceState,
        all: impl IntoIterator<Item = &'a DeviceState>,
    ) -> Option<(DeviceId, &'a Assignment)> {
        let own = self.assignment(view);
        if let Some(given) = own.filter(|_| !self.counts_as_requested(view)) {
            return Some((view.device.id, given));
        }
        let group = view.device.group?;
        let peers = all.into_iter().filter(|peer| peer.device.group == Some(group));
        peers
            .filter(|peer| peer.device.id != view.device.id)
            .filter_map(|peer| Some((peer.device.id, self.assignment(peer)?)))
            .filter(|(_, given)| !given.real.contains(&view.device.id.to_string()))
            .find(|(_, given)| !own.is_some_and(|own| own.is_of_the_same_pod(given)))
    }

    /// What gave a device away in place of another, so that the kubelet's books have it as free.
    pub fn substituted_for(&self, view: &DeviceState) -> Option<&Assignment> {
        let place = *self.devices.get(&view.device.id)?;
        self.given.get(place).filter(|given| !given.ids.contains(&view.device.id.to_string()))
    }

    /// What was given in place of an id, to the last container that the kubelet's books have it for: while that is there
    /// the kubelet asks for the id only for the same pod, whose init container hands it on.
    pub fn substitutes_of<'a>(&'a self, resource: &'a str, id: &'a str) -> impl Iterator<Item = DeviceId> {
        let last = self.given.iter().rev().find(|given| given.resource == resource && given.ids.contains(id));
        last.into_iter().flat_map(|given| given.real.difference(&given.ids)).filter_map(|id| id.parse().ok())
    }

    /// The name of a pod that owns something, by its uid.
    pub fn name_of(&self, uid: &str) -> Option<&str> {
        let of = |given: &&Assignment| given.pod.uid.as_deref() == Some(uid) && given.pod.name.is_some();
        self.given.iter().find(of)?.pod.name.as_deref()
    }

    /// Whether anything is owned.
    pub fn any(&self) -> bool {
        !self.given.is_empty()
    }

    /// What the monitor must never open, and where it must stay.
    pub fn owned(&self) -> AssignedDevices {
        let pinned_offers = |(id, place): (&DeviceId, &usize)| {
            let given = self.given.get(*place)?;
            Some((*id, PinnedOffer { resource: given.resource.as_str().into(), pinned: given.pinned? }))
        };
        AssignedDevices {
            devices: self.devices.keys().copied().collect(),
            groups: self.groups.keys().map(|(_, group)| *group).collect(),
            pinned_offers: self.devices.iter().filter_map(pinned_offers).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::view;
    use std::collections::BTreeSet;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    const A: &str = "0000:01:00.0";
    const PEER: &str = "0000:01:00.1";
    const RESOURCE: &str = "nvidia.com/GPU";

    fn device(address: &str) -> DeviceState {
        view(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false)
    }

    fn owned(given: &[(&str, &[&str], &[&str])]) -> Assignments {
        let set = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
        let mut ledger = Ledger::default();
        for (resource, ids, real) in given {
            ledger.record_allocate(resource, set(ids), set(real), Default::default(), Instant::now());
        }
        Assignments::new(true, &ledger)
    }

    #[test]
    fn a_group_is_kept_by_its_other_owner() {
        let (a, peer) = (device(A), device(PEER));
        let all = [a.clone(), peer.clone()];
        let keeper = |owners: &Assignments, view| owners.blocker(view, &all).map(|(id, _)| id.to_string());
        let by_mate = owned(&[(RESOURCE, &[PEER], &[PEER])]);
        assert_eq!(keeper(&by_mate, &a).as_deref(), Some(PEER));
        assert_eq!(keeper(&by_mate, &peer), None);
        let together = owned(&[(RESOURCE, &[A, PEER], &[A, PEER])]);
        assert_eq!(keeper(&together, &a), None, "both are back, or neither");
        // The pod that had both is gone, and the next one has the first for two of its containers.
        let again = owned(&[(RESOURCE, &[A, PEER], &[A, PEER]), (RESOURCE, &[A], &[A])]);
        assert_eq!(keeper(&again, &a), None);
        assert_eq!(keeper(&again, &peer).as_deref(), Some(A));
        let apart = owned(&[(RESOURCE, &[A], &[A]), (RESOURCE, &[PEER], &[PEER])]);
        assert_eq!(keeper(&apart, &a).as_deref(), Some(PEER));
    }

    #[test]
    fn a_device_that_was_given_away_as_another_resource_is_kept_by_itself() {
        let a = device(A);
        let owners = owned(&[("example.com/gpu", &[A], &[A])]);
        assert!(owners.assignment(&a).is_some() && !owners.counts_as_requested(&a));
        assert_eq!(owners.blocker(&a, []).map(|(id, _)| id), Some(a.device.id));
    }

    #[test]
    fn an_older_plugins_id_is_the_group_of_its_own_resource() {
        let a = device(A);
        assert!(owned(&[(RESOURCE, &["51"], &["51"])]).counts_as_requested(&a));
        assert!(owned(&[("example.com/gpu", &["51"], &["51"])]).assignment(&a).is_none());
        assert_eq!(owned(&[(RESOURCE, &["51"], &["51"])]).owned().groups, [GroupId(51)]);
    }

    #[test]
    fn what_was_given_in_place_of_another_is_known() {
        let owners = owned(&[(RESOURCE, &["0000:09:00.0"], &[A])]);
        assert!(owners.substituted_for(&device(A)).is_some());
        assert!(owned(&[(RESOURCE, &[A], &[A])]).substituted_for(&device(A)).is_none());
        assert!(owned(&[(RESOURCE, &["51"], &["51"])]).substituted_for(&device(A)).is_none());
        let instead = |id| owners.substitutes_of(RESOURCE, id).map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(instead("0000:09:00.0"), [A]);
        assert!(instead(A).is_empty());
    }
}
