//! The node, its kubelet and its machines: what can happen, one thing at a time.

use super::plugin::{Granted, Plugin, Seen, entry, listed, other_pod};
use super::{Bounds, Rule, id};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use vfio_plugin_policy::assignments::observation::CheckpointEntry;
use vfio_plugin_policy::pools::terms::Busy;
use vfio_probe::Occupancy;

/// Who has a device open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Holder {
    Nobody,
    /// The machine of a pod.
    Pod(u8),
    /// Another process, or what is left of a pod's that was deleted by force.
    Foreign,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Device {
    bound: bool,
    holder: Holder,
}

/// A pod of the API server. Each comes once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Pod {
    ToCome,
    /// Admitted, and told to have this device.
    Active(u8),
    Gone,
}

/// The kubelet.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Kubelet {
    /// Which pod has which device, in state_file.
    books: BTreeMap<u8, u8>,
    /// And in its checkpoint, as of when it was last written.
    file: BTreeMap<u8, u8>,
    /// That was written since the plugin asked.
    written: bool,
    /// The list that it was sent last: Healthy or not.
    list: BTreeMap<String, bool>,
    /// It knows the API server's pods.
    synced: bool,
    /// The how manieth process it is.
    number: u8,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    pub(super) devices: Vec<Device>,
    pub(super) pods: Vec<Pod>,
    pub(super) kubelet: Kubelet,
    pub(super) plugin: Plugin,
    /// What must not happen, and has.
    pub(super) broken: Option<&'static str>,
}

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Move {
    /// The scheduler sees room and places a pod.
    Admit(u8),
    MachineStarts(u8),
    MachineEnds(u8),
    Delete(u8),
    /// Its machine runs on.
    DeleteByForce(u8),
    ForeignOpens(u8),
    ForeignCloses(u8),
    Unbind(u8),
    Bind(u8),
    /// The plugin looks at the node, and tells the kubelet what comes of it.
    PluginLooks,
    /// It asks the kubelet who owns what, and tells it what comes of that.
    PluginAsks,
    /// Longer than the settling time.
    TimePasses,
    PluginRestarts {
        remembers: bool,
    },
    KubeletRestarts {
        with_checkpoint: bool,
    },
    KubeletSyncs,
}

/// The world that states are moved in.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) bounds: Bounds,
    pub(super) rule: Rule,
    /// The only time there is, beside what was long before.
    pub(super) now: Instant,
}

impl World {
    pub(super) fn start(&self) -> State {
        let nobody = Device { bound: true, holder: Holder::Nobody };
        let mut state = State {
            devices: vec![nobody; self.bounds.groups.len()],
            pods: vec![Pod::ToCome; usize::from(self.bounds.pods)],
            kubelet: Kubelet { synced: true, ..Kubelet::default() },
            plugin: Plugin::default(),
            broken: None,
        };
        for what in [Move::PluginAsks, Move::PluginLooks, Move::TimePasses] {
            self.play(&mut state, what);
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

    fn peers(&self, device: u8) -> impl Iterator<Item = u8> + '_ {
        (0..)
            .zip(&self.bounds.groups)
            .filter(move |(_, group)| **group == self.group(device))
            .map(|(peer, _)| peer)
    }

    fn held(&self, state: &State, device: u8) -> bool {
        self.peers(device).any(|peer| state.device(peer).holder != Holder::Nobody)
    }

    fn seen(&self, state: &State) -> Vec<Seen> {
        let seen = |device: u8| Seen {
            device,
            group: self.group(device),
            bound: state.device(device).bound,
            open: state.device(device).holder != Holder::Nobody,
            held: self.held(state, device),
        };
        state.all_devices().map(seen).collect()
    }

    /// Devices that pods of the API server have.
    pub(super) fn owned(&self, state: &State) -> BTreeSet<String> {
        state.active().map(|(_, device)| id(device)).collect()
    }

    /// Devices that a new machine could open and that are promised to nobody.
    pub(super) fn free(&self, state: &State) -> BTreeSet<String> {
        let taken: BTreeSet<u32> = state.active().map(|(_, device)| self.group(device)).collect();
        let free = |device: &u8| {
            state.device(*device).bound && !taken.contains(&self.group(*device)) && !self.held(state, *device)
        };
        state.all_devices().filter(free).map(id).collect()
    }

    /// What can happen in a state.
    pub(super) fn moves(&self, state: &State, moves: &mut Vec<Move>) {
        let kubelet = &state.kubelet;
        for (pod, phase) in (0..).zip(&state.pods) {
            match *phase {
                Pod::ToCome if kubelet.synced && kubelet.allocatable() > state.requested() => {
                    // They differ by nothing but their order.
                    if pod == 0 || !matches!(state.pods.get(usize::from(pod) - 1), Some(Pod::ToCome)) {
                        moves.push(Move::Admit(pod));
                    }
                }
                Pod::Active(device) => {
                    let runs = state.device(device).holder == Holder::Pod(pod);
                    moves.push(Move::Delete(pod));
                    if runs {
                        moves.push(Move::DeleteByForce(pod));
                    }
                    // A container that a kubelet without its books creates is given who knows what.
                    if kubelet.books.contains_key(&pod) {
                        moves.push(if runs { Move::MachineEnds(pod) } else { Move::MachineStarts(pod) });
                    }
                }
                Pod::ToCome | Pod::Gone => {}
            }
        }
        for device in state.all_devices() {
            match state.device(device) {
                Device { holder: Holder::Foreign, .. } => moves.push(Move::ForeignCloses(device)),
                Device { bound: true, holder: Holder::Nobody } if !self.held(state, device) => {
                    moves.push(Move::ForeignOpens(device));
                }
                _ => {}
            }
            if self.bounds.binds {
                match state.device(device) {
                    Device { bound: true, .. } => moves.push(Move::Unbind(device)),
                    Device { holder: Holder::Nobody, .. } => moves.push(Move::Bind(device)),
                    Device { .. } => {}
                }
            }
        }
        moves.extend([Move::PluginLooks, Move::PluginAsks, Move::TimePasses]);
        if !kubelet.synced {
            // Within a minute of its start, of which the plugin takes account.
            moves.push(Move::KubeletSyncs);
        }
        moves.push(Move::PluginRestarts { remembers: true });
        if state.active().all(|(pod, device)| kubelet.file.get(&pod) == Some(&device)) {
            moves.push(Move::PluginRestarts { remembers: false });
        }
        if kubelet.number < self.bounds.kubelet_restarts {
            moves.push(Move::KubeletRestarts { with_checkpoint: true });
            // What nobody was told before the books were lost, nobody knows.
            if state.active().all(|(pod, device)| state.plugin.knows(pod, device)) {
                moves.push(Move::KubeletRestarts { with_checkpoint: false });
            }
        }
    }

    /// Lets it happen.
    pub(super) fn play(&self, state: &mut State, what: Move) {
        match what {
            Move::Admit(pod) => self.admit(state, pod),
            Move::MachineStarts(pod) => {
                if let Some(device) = state.device_of(pod)
                    && state.device(device).bound
                    && !self.held(state, device)
                {
                    state.set_holder(device, Holder::Pod(pod));
                }
            }
            Move::MachineEnds(pod) => state.end_machine(pod, Holder::Nobody),
            Move::Delete(pod) => {
                state.end_machine(pod, Holder::Nobody);
                state.set_pod(pod, Pod::Gone);
            }
            Move::DeleteByForce(pod) => {
                state.end_machine(pod, Holder::Foreign);
                state.set_pod(pod, Pod::Gone);
            }
            Move::ForeignOpens(device) => state.set_holder(device, Holder::Foreign),
            Move::ForeignCloses(device) => state.set_holder(device, Holder::Nobody),
            Move::Unbind(device) => state.set_bound(device, false),
            Move::Bind(device) => state.set_bound(device, true),
            Move::PluginLooks => {
                let seen = self.seen(state);
                state.plugin.look(&seen, self.now);
                self.tell(state);
            }
            Move::PluginAsks => {
                self.ask(state);
                self.tell(state);
            }
            Move::TimePasses => {
                state.plugin.age(self.long_ago());
                self.tell(state);
            }
            Move::PluginRestarts { remembers } => {
                state.plugin.restart(remembers, self.now);
                // `markResourceUnhealthy`, as soon as the stream has ended.
                state.kubelet.list.values_mut().for_each(|healthy| *healthy = false);
            }
            Move::KubeletRestarts { with_checkpoint } => self.restart_kubelet(state, with_checkpoint),
            Move::KubeletSyncs => state.kubelet.synced = true,
        }
    }

    fn long_ago(&self) -> Instant {
        self.now - Duration::from_secs(10)
    }

    fn admit(&self, state: &mut State, pod: u8) {
        state.kubelet.update_allocated(&state.pods);
        let available: Vec<String> = state.kubelet.available();
        let chosen =
            state.plugin.prefer(&available).and_then(|chosen| state.all_devices().find(|d| id(*d) == chosen));
        let Some(device) = chosen else {
            return state.set_pod(pod, Pod::Gone);
        };
        let held = self.held(state, device);
        let there = self.peers(device).any(|peer| state.device(peer).bound) || held;
        let open = match (held, there) {
            (true, _) => Occupancy::Held,
            (false, true) => Occupancy::Free,
            (false, false) => Occupancy::Absent,
        };
        let checkpoint = state.kubelet.checkpoint();
        match state.plugin.allocate(self.rule, &id(device), open, &checkpoint, self.now) {
            Granted::Yes => {
                if held {
                    state.broken = Some("a held device was given away");
                }
                if state.active().any(|(_, other)| self.group(other) == self.group(device)) {
                    state.broken = Some("a device of another pod's group was given away");
                }
                state.set_pod(pod, Pod::Active(device));
                state.kubelet.books.insert(pod, device);
                state.kubelet.write();
            }
            Granted::No => state.set_pod(pod, Pod::Gone),
            Granted::NoAndTold => {
                self.tell(state);
                state.set_pod(pod, Pod::Gone);
            }
        }
    }

    fn ask(&self, state: &mut State) {
        let kubelet = &mut state.kubelet;
        // List does this first, once all sources are ready.
        if kubelet.synced {
            kubelet.update_allocated(&state.pods);
        }
        let mut pods = vec![other_pod()];
        for (pod, phase) in (0..).zip(&state.pods) {
            if kubelet.synced && matches!(phase, Pod::Active(_)) {
                pods.push(listed(pod, kubelet.books.get(&pod).copied()));
            }
        }
        let process = (u64::from(kubelet.number), !kubelet.synced);
        let written = std::mem::take(&mut kubelet.written);
        state.plugin.ask(self.rule, (&pods, &kubelet.checkpoint(), written), process, self.now);
    }

    fn tell(&self, state: &mut State) {
        let Some(list) = state.plugin.tell(self.busy(), self.now) else { return };
        let bound = state.all_devices();
        let bound = bound.filter(|device| state.device(*device).bound && state.plugin.saw_bound(*device));
        if bound.map(id).any(|device| state.kubelet.list.contains_key(&device) && !list.contains_key(&device))
        {
            state.broken = Some("a bound device left the list");
        }
        if self.owned(state).iter().any(|device| list.get(device) == Some(&false)) {
            state.broken = Some("a pod's device was called Unhealthy");
        }
        state.kubelet.list = list;
        state.kubelet.write();
    }

    fn restart_kubelet(&self, state: &mut State, with_checkpoint: bool) {
        if !with_checkpoint {
            // What a pod has whose container is to be created its next Allocate says, and not its last one.
            let waiting: Vec<u8> = state
                .active()
                .filter(|(pod, device)| state.device(*device).holder != Holder::Pod(*pod))
                .map(|(pod, _)| pod)
                .collect();
            waiting.into_iter().for_each(|pod| state.set_pod(pod, Pod::Gone));
        }
        let file = if with_checkpoint { state.kubelet.file.clone() } else { BTreeMap::new() };
        state.kubelet = Kubelet {
            books: file.clone(),
            file,
            written: false,
            list: BTreeMap::new(),
            synced: false,
            number: state.kubelet.number + 1,
        };
        state.plugin.lose_stream();
    }

    /// What comes of a state if nothing happens any more but what the plugin does by itself; none if that never ends.
    pub(super) fn settled(&self, state: &State) -> Option<State> {
        let mut state = state.clone();
        for _ in 0..8 {
            let before = state.clone();
            for what in [Move::KubeletSyncs, Move::PluginLooks, Move::PluginAsks, Move::TimePasses] {
                self.play(&mut state, what);
            }
            if state == before {
                return Some(state);
            }
        }
        None
    }

    /// What the kubelet believes, beside what is true.
    pub(super) fn believes_what_is_true(&self, state: &State) -> bool {
        let healthy: BTreeSet<String> =
            state.kubelet.list.iter().filter(|(_, healthy)| **healthy).map(|(id, _)| id.clone()).collect();
        let right: BTreeSet<String> = self.owned(state).union(&self.free(state)).cloned().collect();
        // Two of one group are one place for a machine, and two devices as long as no pod has one.
        healthy == right && state.kubelet.allocatable() == state.requested() + self.free(state).len()
    }
}

impl State {
    fn all_devices(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.devices.len()).unwrap_or(u8::MAX)
    }

    fn device(&self, device: u8) -> Device {
        self.devices.get(usize::from(device)).copied().unwrap()
    }

    fn active(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        (0..).zip(&self.pods).filter_map(|(pod, phase)| match phase {
            Pod::Active(device) => Some((pod, *device)),
            Pod::ToCome | Pod::Gone => None,
        })
    }

    fn requested(&self) -> usize {
        self.active().count()
    }

    fn device_of(&self, pod: u8) -> Option<u8> {
        self.active().find(|(active, _)| *active == pod).map(|(_, device)| device)
    }

    fn set_pod(&mut self, pod: u8, phase: Pod) {
        self.pods[usize::from(pod)] = phase;
    }

    fn set_holder(&mut self, device: u8, holder: Holder) {
        self.devices[usize::from(device)].holder = holder;
    }

    fn set_bound(&mut self, device: u8, bound: bool) {
        self.devices[usize::from(device)].bound = bound;
    }

    fn end_machine(&mut self, pod: u8, left: Holder) {
        if let Some(device) = self.device_of(pod)
            && self.device(device).holder == Holder::Pod(pod)
        {
            self.set_holder(device, left);
        }
    }
}

impl Kubelet {
    /// `UpdateAllocatedDevices`: what inactive pods had is free, in state_file.
    fn update_allocated(&mut self, pods: &[Pod]) {
        self.books.retain(|pod, _| matches!(pods.get(usize::from(*pod)), Some(Pod::Active(_))));
    }

    /// `GetCapacity`.
    fn allocatable(&self) -> usize {
        self.list.values().filter(|healthy| **healthy).count()
    }

    /// `devicesToAllocate`: Healthy and given to nobody, by its books.
    fn available(&self) -> Vec<String> {
        let given: BTreeSet<String> = self.books.values().map(|device| id(*device)).collect();
        let healthy = self.list.iter().filter(|(_, healthy)| **healthy).map(|(id, _)| id);
        healthy.filter(|id| !given.contains(*id)).cloned().collect()
    }

    /// `writeCheckpoint`.
    fn write(&mut self) {
        self.file = self.books.clone();
        self.written = true;
    }

    fn checkpoint(&self) -> Vec<CheckpointEntry> {
        self.file.iter().map(|(pod, device)| entry(*pod, *device)).collect()
    }
}
