//! Plays events on a state, and judges states.

use super::kubelet::Kubelet;
use super::moves::Move;
use super::node::{Device, Holder, Pod, State};
use super::plugin::{AllocateResult, Plugin, SeenDevice, listed, other_pod};
use super::{Bounds, Rule, id};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vfio_plugin_policy::pools::terms::Busy;
use vfio_probe::Occupancy;

/// The world in which events are played.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) bounds: Bounds,
    pub(super) rule: Rule,
    /// The only time of the model, beside a time long before it.
    pub(super) now: Instant,
}

impl World {
    /// Returns the first state: all devices are bound and free, and the plugin has reported them.
    pub(super) fn start(&self) -> State {
        let free = Device { bound: true, holder: Holder::None };
        let mut state = State {
            devices: vec![free; self.bounds.groups.len()],
            pods: vec![Pod::ToCome; usize::from(self.bounds.pods)],
            kubelet: Kubelet { synced: true, ..Kubelet::default() },
            plugin: Plugin::default(),
            violation: None,
        };
        for event in [Move::Poll, Move::MonitorPass, Move::TimePasses] {
            self.play(&mut state, event);
        }
        state
    }

    fn busy(&self) -> Busy {
        match self.rule {
            Rule::Policy(busy) => busy,
            _ => Busy::Attributed,
        }
    }

    fn group(&self, device: u8) -> u32 {
        self.bounds.groups.get(usize::from(device)).copied().unwrap_or_default()
    }

    /// Returns the devices of a device's group, with the device itself.
    fn members(&self, device: u8) -> impl Iterator<Item = u8> + '_ {
        let members = (0..).zip(&self.bounds.groups).filter(move |(_, group)| **group == self.group(device));
        members.map(|(member, _)| member)
    }

    /// Returns whether a device of the device's group is open.
    pub(super) fn held(&self, state: &State, device: u8) -> bool {
        self.members(device).any(|member| state.device(member).holder != Holder::None)
    }

    /// Returns the devices that are assigned to pods.
    fn assigned(&self, state: &State) -> BTreeSet<String> {
        state.active().map(|(_, device)| id(device)).collect()
    }

    /// Returns the devices that a new VM could open and that are assigned to no pod.
    fn free(&self, state: &State) -> BTreeSet<String> {
        let taken: BTreeSet<u32> = state.active().map(|(_, device)| self.group(device)).collect();
        let free = |device: &u8| {
            state.device(*device).bound && !taken.contains(&self.group(*device)) && !self.held(state, *device)
        };
        state.all_devices().filter(free).map(id).collect()
    }

    /// Plays an event.
    pub(super) fn play(&self, state: &mut State, event: Move) {
        match event {
            Move::Admit(pod) => self.admit(state, pod),
            Move::VmStarts(pod) => {
                if let Some(device) = state.device_of(pod)
                    && state.device(device).bound
                    && !self.held(state, device)
                {
                    state.set_holder(device, Holder::Pod(pod));
                }
            }
            Move::VmEnds(pod) => state.end_vm(pod, Holder::None),
            Move::Delete(pod) => {
                state.end_vm(pod, Holder::None);
                state.set_pod(pod, Pod::Gone);
            }
            Move::ForceDelete(pod) => {
                state.end_vm(pod, Holder::Foreign);
                state.set_pod(pod, Pod::Gone);
            }
            Move::ForeignOpens(device) => state.set_holder(device, Holder::Foreign),
            Move::ForeignCloses(device) => state.set_holder(device, Holder::None),
            Move::Unbind(device) => state.set_bound(device, false),
            Move::Bind(device) => state.set_bound(device, true),
            Move::MonitorPass => {
                let seen = self.seen(state);
                state.plugin.take_snapshot(&seen, self.now);
                self.report(state);
            }
            Move::Poll => {
                self.poll(state);
                self.report(state);
            }
            Move::TimePasses => {
                state.plugin.age(self.long_ago());
                self.report(state);
            }
            Move::PluginRestarts { with_state } => {
                state.plugin.restart(with_state, self.now);
                // `markResourceUnhealthy`: at once when the stream has ended.
                state.kubelet.list.values_mut().for_each(|healthy| *healthy = false);
            }
            Move::KubeletRestarts { with_checkpoint } => self.restart_kubelet(state, with_checkpoint),
            Move::KubeletSyncs => state.kubelet.synced = true,
        }
    }

    fn long_ago(&self) -> Instant {
        self.now - Duration::from_secs(10)
    }

    /// Returns the devices as sysfs and probes show them.
    fn seen(&self, state: &State) -> Vec<SeenDevice> {
        let seen = |device: u8| SeenDevice {
            device,
            group: self.group(device),
            bound: state.device(device).bound,
            open: state.device(device).holder != Holder::None,
            held: self.held(state, device),
        };
        state.all_devices().map(seen).collect()
    }

    /// The kubelet admits a pod: GetPreferredAllocation, then Allocate.
    fn admit(&self, state: &mut State, pod: u8) {
        state.kubelet.update_allocated(&state.pods);
        let available: Vec<String> = state.kubelet.available();
        let chosen = state.plugin.prefer(&available).and_then(|chosen| state.device_named(&chosen));
        let Some(device) = chosen else {
            return state.set_pod(pod, Pod::Gone);
        };
        let held = self.held(state, device);
        let exists = self.members(device).any(|member| state.device(member).bound) || held;
        let probed = match (held, exists) {
            (true, _) => Occupancy::Held,
            (false, true) => Occupancy::Free,
            (false, false) => Occupancy::Absent,
        };
        let checkpoint = state.kubelet.checkpoint();
        match state.plugin.allocate(self.rule, &id(device), probed, &checkpoint, self.now) {
            AllocateResult::Granted => {
                if held {
                    state.violation = Some("a held device was allocated");
                }
                if state.active().any(|(_, other)| self.group(other) == self.group(device)) {
                    state.violation = Some("a device of another pod's group was allocated");
                }
                state.set_pod(pod, Pod::Active(device));
                state.kubelet.in_memory.insert(pod, device);
                state.kubelet.write();
            }
            AllocateResult::Refused => state.set_pod(pod, Pod::Gone),
            AllocateResult::RefusedAndReported => {
                self.report(state);
                state.set_pod(pod, Pod::Gone);
            }
        }
    }

    /// The plugin reads pod resources and the checkpoint.
    fn poll(&self, state: &mut State) {
        let kubelet = &mut state.kubelet;
        // List does this first, once all sources are ready.
        if kubelet.synced {
            kubelet.update_allocated(&state.pods);
        }
        let mut pods = vec![other_pod()];
        for (pod, phase) in (0..).zip(&state.pods) {
            if kubelet.synced && matches!(phase, Pod::Active(_)) {
                pods.push(listed(pod, kubelet.in_memory.get(&pod).copied()));
            }
        }
        let process = (u64::from(kubelet.restarts), !kubelet.synced);
        let written = std::mem::take(&mut kubelet.written);
        state.plugin.poll(self.rule, (&pods, &kubelet.checkpoint(), written), process, self.now);
    }

    /// The plugin sends a list, if it has another one than before.
    fn report(&self, state: &mut State) {
        let Some(list) = state.plugin.report(self.busy(), self.now) else { return };
        let bound = state.all_devices();
        let bound = bound.filter(|device| state.device(*device).bound && state.plugin.saw_bound(*device));
        if bound.map(id).any(|device| state.kubelet.list.contains_key(&device) && !list.contains_key(&device))
        {
            state.violation = Some("a bound device left the list");
        }
        if self.assigned(state).iter().any(|device| list.get(device) == Some(&false)) {
            state.violation = Some("an assigned device was reported Unhealthy");
        }
        state.kubelet.list = list;
        state.kubelet.write();
    }

    fn restart_kubelet(&self, state: &mut State, with_checkpoint: bool) {
        if !with_checkpoint {
            // A pod whose container is not created yet gets a device by its next Allocate, so it counts as a new pod.
            let waiting: Vec<u8> = state
                .active()
                .filter(|(pod, device)| state.device(*device).holder != Holder::Pod(*pod))
                .map(|(pod, _)| pod)
                .collect();
            waiting.into_iter().for_each(|pod| state.set_pod(pod, Pod::Gone));
        }
        state.kubelet.restart(with_checkpoint);
        state.plugin.lose_stream();
    }

    /// Returns the state that follows if nothing happens except what the plugin does by itself. None if that never ends.
    pub(super) fn settled(&self, state: &State) -> Option<State> {
        let mut state = state.clone();
        for _ in 0..8 {
            let before = state.clone();
            for event in [Move::KubeletSyncs, Move::MonitorPass, Move::Poll, Move::TimePasses] {
                self.play(&mut state, event);
            }
            if state == before {
                return Some(state);
            }
        }
        None
    }

    /// Returns whether the kubelet knows the truth: the assigned and the free devices are Healthy, no others are, and
    /// allocatable - requested is the number of free devices.
    pub(super) fn kubelet_is_right(&self, state: &State) -> bool {
        let healthy: BTreeSet<String> =
            state.kubelet.list.iter().filter(|(_, healthy)| **healthy).map(|(id, _)| id.clone()).collect();
        let right: BTreeSet<String> = self.assigned(state).union(&self.free(state)).cloned().collect();
        // Two devices of one group count as two while no pod has one of them, though only one VM can use them.
        healthy == right && state.kubelet.allocatable() == state.requested() + self.free(state).len()
    }
}
