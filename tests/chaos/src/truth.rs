//! What is true of the node, by its own tree and the API server's books: the plugin is not asked.

use crate::pods::Pod;
use crate::world::{Foreign, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use vfio_sim_node::Hold;

impl World {
    /// Addresses that pods of the API server have, with their groups.
    pub(crate) fn owned(&self) -> BTreeMap<String, u32> {
        self.owned_by(|_| true)
    }

    /// Addresses that some of them have.
    pub(crate) fn owned_by(&self, wanted: impl Fn(&Pod) -> bool) -> BTreeMap<String, u32> {
        let pods = self.pods.iter().filter(|pod| wanted(pod));
        let addresses = pods.flat_map(|pod| pod.given.values().flatten());
        addresses.filter_map(|address| Some((address.clone(), self.group_of(address)?))).collect()
    }

    /// What pods have asked for: the scheduler counts nothing else.
    pub(crate) fn requested(&self) -> usize {
        self.pods.iter().map(|pod| pod.spec.count()).sum()
    }

    /// Groups that a new machine could open now and that are promised to nobody.
    pub(crate) fn free_groups(&self) -> BTreeSet<u32> {
        let taken: BTreeSet<u32> = self.owned().into_values().collect();
        let groups = self.bound.values().copied();
        groups.filter(|group| !taken.contains(group) && !self.node.is_held(*group)).collect()
    }

    /// Bound devices of those groups. Two of one group both count: a machine may be given both; once one is given away,
    /// the other is no longer free.
    pub(crate) fn free(&self) -> BTreeSet<String> {
        let groups = self.free_groups();
        addresses(&self.bound, |group| groups.contains(&group)).collect()
    }

    /// Devices of which nobody can tell, and which Allocate refuses: bound ones of groups that somebody has opened, but no
    /// device of (without an open of one's own that cannot be seen, and QEMU is in that state for milliseconds); what is left
    /// of a pod that nobody can tell is gone; and what was a pod's that has ended while pods cannot be listed.
    pub(crate) fn unseen(&self) -> BTreeSet<String> {
        let taken: BTreeSet<u32> = self.owned().into_values().collect();
        let groups = |wanted: fn(&Foreign) -> bool| -> BTreeSet<u32> {
            let foreign = self.foreign.iter().filter(|foreign| wanted(foreign));
            foreign
                .flat_map(|foreign| &foreign.groups)
                .copied()
                .filter(|group| !taken.contains(group))
                .collect()
        };
        let opened = groups(|foreign| foreign.hold == Hold::GroupOnly);
        let untold = groups(|foreign| foreign.untold);
        let ended = self.ended_unseen();
        let unknown = |group| untold.contains(&group) || ended.contains(&group) && !taken.contains(&group);
        addresses(&self.bound, |group| opened.contains(&group))
            .chain(addresses(self.all(), unknown))
            .collect()
    }

    /// The group of a function.
    pub(crate) fn group_of(&self, address: &str) -> Option<u32> {
        self.bound.get(address).or_else(|| self.unbound.get(address)).copied()
    }

    /// Groups of what a pod was given.
    pub(crate) fn groups_of_pod(&self, place: usize) -> Vec<u32> {
        let given = self.pods.get(place).map(|pod| &pod.given);
        let groups: BTreeSet<u32> = given
            .into_iter()
            .flat_map(BTreeMap::values)
            .flatten()
            .filter_map(|address| self.group_of(address))
            .collect();
        groups.into_iter().collect()
    }

    /// Places of pods.
    pub(crate) fn pods_where(&self, wanted: impl Fn(&Pod) -> bool) -> Vec<usize> {
        self.pods.iter().enumerate().filter(|(_, pod)| wanted(pod)).map(|(place, _)| place).collect()
    }

    /// All functions with their groups, bound and unbound.
    fn all(&self) -> impl Iterator<Item = (&String, &u32)> {
        self.bound.iter().chain(&self.unbound)
    }

    /// All groups that there are.
    pub(crate) fn groups(&self) -> BTreeSet<u32> {
        self.all().map(|(_, group)| *group).collect()
    }

    /// Functions of a group, bound and unbound.
    pub(crate) fn members(&self, group: u32) -> Vec<String> {
        addresses(self.all(), |of| of == group).collect()
    }

    /// Groups of the functions that a text names.
    pub(crate) fn groups_named(&self, text: &str) -> BTreeSet<u32> {
        self.all().filter(|(address, _)| text.contains(*address)).map(|(_, group)| *group).collect()
    }

    /// Addresses that pods have, with the pod.
    pub(crate) fn pods_of_devices(&self) -> BTreeMap<String, String> {
        let given = |pod: &Pod| -> Vec<(String, String)> {
            pod.given.values().flatten().map(|address| (address.clone(), pod.spec.uid.clone())).collect()
        };
        self.pods.iter().flat_map(given).collect()
    }
}

/// Addresses of the functions whose group is wanted.
fn addresses<'a>(
    functions: impl IntoIterator<Item = (&'a String, &'a u32)>,
    wanted: impl Fn(u32) -> bool,
) -> impl Iterator<Item = String> {
    functions.into_iter().filter(move |(_, group)| wanted(**group)).map(|(address, _)| address.clone())
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, devices: &BTreeSet<String>| {
            write!(f, "\n  {what}: {}", devices.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
        };
        line(f, "free", &self.free())?;
        line(f, "nobody can tell", &self.unseen())?;
        line(f, "unbound", &self.unbound.keys().cloned().collect())?;
        for pod in &self.pods {
            let runs = if pod.vm.is_some() { ", runs" } else { "" };
            write!(f, "\n  {} has {:?}{runs}", pod.spec.name, pod.given)?;
        }
        for foreign in &self.foreign {
            let whose = if foreign.hung { "what is left of" } else { "another's" };
            write!(f, "\n  {whose} pid {} holds {:?}", foreign.vm.pid(), foreign.groups)?;
        }
        Ok(())
    }
}
