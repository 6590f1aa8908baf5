//! Pure: who owns what at one moment, and whose it is that keeps a device from being given away.

use super::given::Given;
use super::ledger::Ledger;
use crate::owned_groups::{Lent, Owns};
use crate::snapshot::DeviceView;
use std::collections::BTreeMap;
use vfio_probe::{DeviceId, GroupId};

/// Who owns what, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ownership {
    /// The kubelet's answer to either question has been had at the latest asking.
    pub(crate) told: bool,
    given: Vec<Given>,
    devices: BTreeMap<DeviceId, usize>,
    /// By an older plugin's ids, which are numbers of groups; only of the same resource.
    groups: BTreeMap<(String, GroupId), usize>,
}

impl Ownership {
    /// As the ledger has it.
    pub(crate) fn new(told: bool, ledger: &Ledger) -> Self {
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
    pub(crate) fn owner(&self, view: &DeviceView) -> Option<&Given> {
        let by_group = || self.groups.get(&(view.resource.to_string(), view.device.group?));
        let by_group = if self.groups.is_empty() { None } else { by_group() };
        self.devices.get(&view.device.id).or(by_group).and_then(|&place| self.given.get(place))
    }

    /// Whether a pod owns the device and it is counted in what is requested of its resource.
    pub(crate) fn counts(&self, view: &DeviceView) -> bool {
        self.owner(view).is_some_and(|given| *given.resource == *view.resource)
    }

    /// Who keeps a device from others: another member of its group that a pod owns, or itself, given away as another
    /// resource. `all` are the devices to look among.
    ///
    /// What was given away together with the device keeps it from nobody: whoever is asked for the one knows that both are
    /// back.
    pub(crate) fn keeper<'a>(
        &'a self,
        view: &DeviceView,
        all: impl IntoIterator<Item = &'a DeviceView>,
    ) -> Option<(DeviceId, &'a Given)> {
        let own = self.owner(view);
        if let Some(given) = own.filter(|_| !self.counts(view)) {
            return Some((view.device.id, given));
        }
        let group = view.device.group?;
        let mates = all.into_iter().filter(|mate| mate.device.group == Some(group));
        mates
            .filter(|mate| mate.device.id != view.device.id)
            .filter_map(|mate| Some((mate.device.id, self.owner(mate)?)))
            .filter(|(_, given)| !given.real.contains(&view.device.id.to_string()))
            .find(|(_, given)| !own.is_some_and(|own| own.is_of_the_same_pod(given)))
    }

    /// What gave a device away in place of another, so that the kubelet's books have it as free.
    pub(crate) fn given_instead(&self, view: &DeviceView) -> Option<&Given> {
        let place = *self.devices.get(&view.device.id)?;
        self.given.get(place).filter(|given| !given.ids.contains(&view.device.id.to_string()))
    }

    /// What was given in place of an id, to the last container that the kubelet's books have it for: while that is there
    /// the kubelet asks for the id only for the same pod, whose init container hands it on.
    pub(crate) fn instead_of<'a>(&'a self, resource: &'a str, id: &'a str) -> impl Iterator<Item = DeviceId> {
        let last = self.given.iter().rev().find(|given| given.resource == resource && given.ids.contains(id));
        last.into_iter().flat_map(|given| given.real.difference(&given.ids)).filter_map(|id| id.parse().ok())
    }

    /// The name of a pod that owns something, by its uid.
    pub(crate) fn name_of(&self, uid: &str) -> Option<&str> {
        let of = |given: &&Given| given.pod.uid.as_deref() == Some(uid) && given.pod.name.is_some();
        self.given.iter().find(of)?.pod.name.as_deref()
    }

    /// Whether anything is owned.
    pub(crate) fn any(&self) -> bool {
        !self.given.is_empty()
    }

    /// What the monitor must never open, and where it must stay.
    pub(crate) fn owned(&self) -> Owns {
        let lent = |(id, place): (&DeviceId, &usize)| {
            let given = self.given.get(*place)?;
            Some((*id, Lent { resource: given.resource.as_str().into(), fixed: given.fixed? }))
        };
        Owns {
            devices: self.devices.keys().copied().collect(),
            groups: self.groups.keys().map(|(_, group)| *group).collect(),
            lent: self.devices.iter().filter_map(lent).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::view;
    use std::collections::BTreeSet;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    const A: &str = "0000:01:00.0";
    const MATE: &str = "0000:01:00.1";
    const RESOURCE: &str = "nvidia.com/GPU";

    fn device(address: &str) -> DeviceView {
        view(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false)
    }

    fn owned(given: &[(&str, &[&str], &[&str])]) -> Ownership {
        let set = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
        let mut ledger = Ledger::default();
        for (resource, ids, real) in given {
            ledger.granted(resource, set(ids), set(real), Default::default(), Instant::now());
        }
        Ownership::new(true, &ledger)
    }

    #[test]
    fn a_group_is_kept_by_its_other_owner() {
        let (a, mate) = (device(A), device(MATE));
        let all = [a.clone(), mate.clone()];
        let keeper = |owners: &Ownership, view| owners.keeper(view, &all).map(|(id, _)| id.to_string());
        let by_mate = owned(&[(RESOURCE, &[MATE], &[MATE])]);
        assert_eq!(keeper(&by_mate, &a).as_deref(), Some(MATE));
        assert_eq!(keeper(&by_mate, &mate), None);
        let together = owned(&[(RESOURCE, &[A, MATE], &[A, MATE])]);
        assert_eq!(keeper(&together, &a), None, "both are back, or neither");
        // The pod that had both is gone, and the next one has the first for two of its containers.
        let again = owned(&[(RESOURCE, &[A, MATE], &[A, MATE]), (RESOURCE, &[A], &[A])]);
        assert_eq!(keeper(&again, &a), None);
        assert_eq!(keeper(&again, &mate).as_deref(), Some(A));
        let apart = owned(&[(RESOURCE, &[A], &[A]), (RESOURCE, &[MATE], &[MATE])]);
        assert_eq!(keeper(&apart, &a).as_deref(), Some(MATE));
    }

    #[test]
    fn a_device_that_was_given_away_as_another_resource_is_kept_by_itself() {
        let a = device(A);
        let owners = owned(&[("example.com/gpu", &[A], &[A])]);
        assert!(owners.owner(&a).is_some() && !owners.counts(&a));
        assert_eq!(owners.keeper(&a, []).map(|(id, _)| id), Some(a.device.id));
    }

    #[test]
    fn an_older_plugins_id_is_the_group_of_its_own_resource() {
        let a = device(A);
        assert!(owned(&[(RESOURCE, &["51"], &["51"])]).counts(&a));
        assert!(owned(&[("example.com/gpu", &["51"], &["51"])]).owner(&a).is_none());
        assert_eq!(owned(&[(RESOURCE, &["51"], &["51"])]).owned().groups, [GroupId(51)]);
    }

    #[test]
    fn what_was_given_in_place_of_another_is_known() {
        let owners = owned(&[(RESOURCE, &["0000:09:00.0"], &[A])]);
        assert!(owners.given_instead(&device(A)).is_some());
        assert!(owned(&[(RESOURCE, &[A], &[A])]).given_instead(&device(A)).is_none());
        assert!(owned(&[(RESOURCE, &["51"], &["51"])]).given_instead(&device(A)).is_none());
        let instead = |id| owners.instead_of(RESOURCE, id).map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(instead("0000:09:00.0"), [A]);
        assert!(instead(A).is_empty());
    }
}
