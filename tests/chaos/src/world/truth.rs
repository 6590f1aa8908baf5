//! Computes what is true from the simulated node and the API server's pods, without the plugin.

use super::{Foreign, Pod, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use vfio_sim_node::Hold;

impl World {
    /// Returns the devices of all pods, with their groups.
    pub(crate) fn assigned(&self) -> BTreeMap<String, u32> {
        self.assigned_to(|_| true)
    }

    /// Returns the devices of the pods that are `wanted`, with their groups.
    pub(crate) fn assigned_to(&self, wanted: impl Fn(&Pod) -> bool) -> BTreeMap<String, u32> {
        let pods = self.pods.iter().filter(|pod| wanted(pod));
        let addresses = pods.flat_map(|pod| pod.allocated.values().flatten());
        addresses.filter_map(|address| Some((address.clone(), self.group_of(address)?))).collect()
    }

    /// Returns the number of devices that pods request. The scheduler counts nothing else.
    pub(crate) fn requested(&self) -> usize {
        self.pods.iter().map(|pod| pod.spec.count()).sum()
    }

    /// Returns the groups that a new VM could open now and that are assigned to no pod.
    pub(crate) fn free_groups(&self) -> BTreeSet<u32> {
        let taken: BTreeSet<u32> = self.assigned().into_values().collect();
        let groups = self.bound.values().copied();
        groups.filter(|group| !taken.contains(group) && !self.node.is_held(*group)).collect()
    }

    /// Returns the bound devices of the free groups. Two devices of one group both count, because a VM may be
    /// allocated both. When one is allocated to a pod, the other is not free any more.
    pub(crate) fn free(&self) -> BTreeSet<String> {
        let groups = self.free_groups();
        addresses(&self.bound, |group| groups.contains(&group)).collect()
    }

    /// Returns devices with a state that the plugin cannot detect, so that Allocate may refuse them:
    ///
    /// - bound devices of a group that is open without a device: only an open detects this state, in which QEMU is for
    ///   milliseconds;
    /// - devices that stay held after the end of a pod which the plugin cannot identify;
    /// - devices of pods that ended while pods cannot be listed.
    pub(crate) fn undetectable(&self) -> BTreeSet<String> {
        let taken: BTreeSet<u32> = self.assigned().into_values().collect();
        let groups = |wanted: fn(&Foreign) -> bool| -> BTreeSet<u32> {
            let foreign = self.foreign.iter().filter(|foreign| wanted(foreign));
            foreign
                .flat_map(|foreign| &foreign.groups)
                .copied()
                .filter(|group| !taken.contains(group))
                .collect()
        };
        let opened = groups(|foreign| foreign.hold == Hold::GroupOnly);
        let unattributable = groups(|foreign| foreign.unattributable);
        let ended = self.ended_unreported();
        let unknown =
            |group| unattributable.contains(&group) || ended.contains(&group) && !taken.contains(&group);
        addresses(&self.bound, |group| opened.contains(&group))
            .chain(addresses(self.all(), unknown))
            .collect()
    }

    /// Returns the group of a function.
    pub(crate) fn group_of(&self, address: &str) -> Option<u32> {
        self.bound.get(address).or_else(|| self.unbound.get(address)).copied()
    }

    /// Returns the groups of a pod's devices.
    pub(crate) fn groups_of_pod(&self, index: usize) -> Vec<u32> {
        let allocated = self.pods.get(index).map(|pod| &pod.allocated);
        let groups: BTreeSet<u32> = allocated
            .into_iter()
            .flat_map(BTreeMap::values)
            .flatten()
            .filter_map(|address| self.group_of(address))
            .collect();
        groups.into_iter().collect()
    }

    /// Returns the indices of the pods that are `wanted`.
    pub(crate) fn pods_where(&self, wanted: impl Fn(&Pod) -> bool) -> Vec<usize> {
        self.pods.iter().enumerate().filter(|(_, pod)| wanted(pod)).map(|(index, _)| index).collect()
    }

    /// Iterates over all functions with their groups, bound and unbound.
    fn all(&self) -> impl Iterator<Item = (&String, &u32)> {
        self.bound.iter().chain(&self.unbound)
    }

    /// Returns all groups.
    pub(crate) fn groups(&self) -> BTreeSet<u32> {
        self.all().map(|(_, group)| *group).collect()
    }

    /// Returns the functions of a group, bound and unbound.
    pub(crate) fn members(&self, group: u32) -> Vec<String> {
        addresses(self.all(), |of| of == group).collect()
    }

    /// Returns the groups of the functions that a text names by address.
    pub(crate) fn groups_named(&self, text: &str) -> BTreeSet<u32> {
        self.all().filter(|(address, _)| text.contains(*address)).map(|(_, group)| *group).collect()
    }

    /// Returns the uid of the pod of each assigned device.
    pub(crate) fn pod_of_device(&self) -> BTreeMap<String, String> {
        let allocated = |pod: &Pod| -> Vec<(String, String)> {
            pod.allocated.values().flatten().map(|address| (address.clone(), pod.spec.uid.clone())).collect()
        };
        self.pods.iter().flat_map(allocated).collect()
    }
}

/// Returns the addresses of the functions in the groups that are `wanted`.
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
        line(f, "not detectable", &self.undetectable())?;
        line(f, "unbound", &self.unbound.keys().cloned().collect())?;
        for pod in &self.pods {
            let runs = if pod.vm.is_some() { ", runs" } else { "" };
            write!(f, "\n  {} has {:?}{runs}", pod.spec.name, pod.allocated)?;
        }
        for foreign in &self.foreign {
            let kind = if foreign.hung { "hung VM" } else { "foreign VM" };
            write!(f, "\n  {kind} pid {} holds {:?}", foreign.vm.pid(), foreign.groups)?;
        }
        Ok(())
    }
}
