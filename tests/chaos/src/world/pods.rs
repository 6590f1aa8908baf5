//! Admits and removes pods, and starts and stops their VMs.

use super::{Foreign, HUNG_TEARDOWN, POD_END_REPORTED, RESOURCE, World};
use crate::violation::violated;
use kubelet_process::{Container, ContainerAllocation, PodShape, PodSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use vfio_sim_node::{Hold, Vm, VmSpec};

/// A pod that the API server has.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) spec: PodSpec,
    /// The addresses in each container's environment.
    pub(crate) allocated: BTreeMap<String, Vec<String>>,
    /// The pod's VM, while it runs.
    pub(crate) vm: Option<Vm>,
    /// True if the kubelet knows what is allocated. After a lost checkpoint it does not, until the container is created
    /// again.
    pub(crate) in_kubelet_state: bool,
    /// The time of the admission.
    pub(crate) admitted_at: Instant,
    /// True if the plugin has seen the pod in a list.
    pub(crate) listed: bool,
    /// True if the kubelet has restarted, with its checkpoint, before the plugin saw the pod in a list.
    pub(crate) restarted: bool,
    /// True if the plugin never saw the pod's name and uid together, because the kubelet lost its checkpoint before the pod
    /// was listed. While the pod runs, the cgroup of its VM shows that it exists. After a forced deletion, the plugin cannot
    /// know which pod the VM belonged to.
    pub(crate) unattributable: bool,
}

impl World {
    /// Creates a pod and has the kubelet admit it. Returns the pod's index, or why it is not admitted.
    pub(crate) fn admit(&mut self, shape: PodShape) -> anyhow::Result<Result<usize, String>> {
        self.pods_so_far += 1;
        let spec = PodSpec::new(self.pods_so_far, shape, RESOURCE);
        let assigned = self.assigned();
        let admitted = self.manager()?.admit(&spec)?;
        let containers = match admitted {
            Ok(containers) => containers,
            Err(reason) => {
                // The earlier containers of the pod were allocated devices. The checkpoint has them until the kubelet writes
                // it again.
                let allocated = self.free_groups().into_iter().map(|group| (Instant::now(), group));
                self.ended.extend(allocated);
                return Ok(Err(reason));
            }
        };
        let allocated: BTreeMap<String, Vec<String>> =
            containers.iter().map(|(name, container)| (name.clone(), container.addresses())).collect();
        self.check_allocation(&spec, &allocated, &assigned)?;
        self.pods.push(Pod {
            spec,
            allocated,
            vm: None,
            in_kubelet_state: true,
            admitted_at: Instant::now(),
            listed: false,
            restarted: false,
            unattributable: false,
        });
        Ok(Ok(self.pods.len() - 1))
    }

    /// Checks what Allocate has returned: as many devices as requested, bound, not held, and in no group of another pod.
    /// `assigned` are the devices of other pods.
    fn check_allocation(
        &mut self,
        spec: &PodSpec,
        allocated: &BTreeMap<String, Vec<String>>,
        assigned: &BTreeMap<String, u32>,
    ) -> anyhow::Result<()> {
        let name = &spec.name;
        for address in allocated.values().flatten() {
            let Some(&group) = self.bound.get(address) else {
                violated!("{name} was allocated {address}, which is not bound")
            };
            if self.node.is_held(group) {
                violated!("{name} was allocated {address}, which is held");
            }
            if let Some((peer, _)) = assigned.iter().find(|(_, other)| **other == group) {
                violated!(
                    "{name} was allocated {address}, but its group peer {peer} is assigned to another pod"
                );
            }
            self.release(&[group]);
        }
        let wanted: usize = spec.count();
        let all: BTreeSet<&String> = allocated.values().flatten().collect();
        if all.len() != wanted {
            violated!("{name} requests {wanted} devices and was allocated {all:?}");
        }
        Ok(())
    }

    /// Creates the containers of an admitted pod and starts its VM. The pod stays without a VM if one of its devices is held
    /// or not bound.
    pub(crate) fn start_vm(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(index) else { return Ok(()) };
        let spec = pod.spec.clone();
        let before = pod.allocated.clone();
        let others: BTreeMap<String, u32> = self.assigned_to(|other| other.spec.uid != spec.uid);
        let mut allocated = BTreeMap::new();
        for Container { name, .. } in &spec.containers {
            // The kubelet refuses if it has lost its checkpoint and finds no device to allocate. It would try again forever
            // for a pod with devices that the plugin cannot know. The user deletes such a pod.
            let Ok(container) = self.manager()?.run(&spec.uid, name)? else {
                self.remove(index, false)?;
                return Ok(());
            };
            allocated.insert(name.clone(), ContainerAllocation::addresses(&container));
        }
        let same = allocated.iter().all(|(name, addresses)| before.get(name) == Some(addresses));
        if !same {
            // The kubelet has lost its checkpoint and called Allocate again: the earlier devices are unassigned now.
            self.check_allocation(&spec, &allocated, &others)?;
            let groups: Vec<u32> =
                before.values().flatten().filter_map(|address| self.group_of(address)).collect();
            self.release(&groups);
        }
        let addresses: Vec<String> = allocated.values().flatten().cloned().collect();
        let groups: Vec<u32> = addresses.iter().filter_map(|address| self.group_of(address)).collect();
        let possible = addresses.iter().all(|address| self.bound.contains_key(address))
            && !groups.iter().any(|group| self.node.is_held(*group));
        let vm = VmSpec { teardown: HUNG_TEARDOWN, ..VmSpec::of_pod(&spec.uid, &addresses) };
        let started = self.node.start_vm(&vm);
        if started.is_ok() {
            self.note_held(&groups);
        }
        let Some(pod) = self.pods.get_mut(index) else { return Ok(()) };
        pod.allocated = allocated;
        // If the pod was unattributable, the kubelet has called Allocate for it just now.
        (pod.in_kubelet_state, pod.unattributable) = (true, false);
        match started {
            Ok(vm) => pod.vm = Some(vm),
            Err(error) if possible => {
                violated!("the VM of {} cannot open {addresses:?}: {error}", spec.name)
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Ends the VM of a pod. Its groups can be opened when this returns.
    pub(crate) fn stop_vm(&mut self, index: usize) {
        let Some(pod) = self.pods.get_mut(index) else { return };
        if let Some(vm) = pod.vm.take() {
            drop(vm);
            let groups = self.groups_of_pod(index);
            self.release(&groups);
        }
    }

    /// Removes a pod from the API server and from the kubelet. Its VM becomes a foreign one: it runs on, or it is `hung`, so
    /// that the process has ended and its groups stay held.
    pub(crate) fn remove(&mut self, index: usize, hung: bool) -> anyhow::Result<()> {
        let groups = self.groups_of_pod(index);
        self.note_listed();
        let pod = self.pods.remove(index);
        if let Some(vm) = pod.vm {
            if hung {
                vm.stop();
            }
            let unattributable = pod.unattributable || pod.restarted && !pod.listed;
            let ended_unlisted = (!pod.listed).then(Instant::now);
            let (hold, groups) = (Hold::Device, groups.clone());
            self.foreign.push(Foreign { hung, hold, unattributable, ended_unlisted, vm, groups });
        }
        groups.iter().for_each(|group| self.note_change(*group));
        self.ended.extend(groups.iter().map(|group| (Instant::now(), *group)));
        // If no kubelet runs, the next one does not find the pod.
        self.manager.as_mut().map_or(Ok(()), |manager| manager.remove(&pod.spec.uid))
    }

    /// Waits until the plugin has seen every pod in a list, if pods can be listed.
    pub(crate) fn wait_until_listed(&mut self) {
        if self.pod_resources_served && self.pods.iter().any(|pod| !pod.listed) {
            std::thread::sleep(POD_END_REPORTED);
            self.note_listed();
        }
    }

    /// Notes which pods the plugin has seen in a list by now.
    pub(super) fn note_listed(&mut self) {
        let (served, since) = (self.pod_resources_served, self.listing_since);
        for pod in &mut self.pods {
            pod.listed |= served && pod.admitted_at.max(since).elapsed() > POD_END_REPORTED;
        }
    }

    /// Notes that the kubelet loses its checkpoint: which pods, of those that have ended too, the plugin cannot identify by now.
    pub(super) fn note_lost_checkpoint(&mut self) {
        for pod in &mut self.pods {
            pod.in_kubelet_state = false;
            pod.unattributable |= !pod.listed;
        }
        let (served, since) = (self.pod_resources_served, self.listing_since);
        let is_reported = |ended: Instant| match served {
            true => ended.max(since).elapsed() > POD_END_REPORTED,
            false => ended + POD_END_REPORTED <= since,
        };
        for foreign in &mut self.foreign {
            foreign.unattributable |= foreign.ended_unlisted.is_some_and(|ended| !is_reported(ended));
        }
    }

    /// Returns groups of pods that ended while pods cannot be listed, so that the plugin cannot know of their end yet.
    pub(super) fn ended_unreported(&self) -> BTreeSet<u32> {
        if self.pod_resources_served {
            return BTreeSet::new();
        }
        // A pod that ended well before that was missing from two lists.
        let unreported =
            self.ended.iter().filter(|(ended, _)| *ended + POD_END_REPORTED > self.listing_since);
        unreported.map(|(_, group)| *group).collect()
    }
}
