//! What can happen in a state, one event at a time.

use super::node::{Device, Holder, Pod, State};
use super::world::World;

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Move {
    /// The scheduler sees an allocatable device and places a pod; the kubelet calls Allocate.
    Admit(u8),
    /// A pod's VM opens its device.
    VmStarts(u8),
    /// A pod's VM closes its device; the pod stays.
    VmEnds(u8),
    /// A pod is deleted, and its VM ends.
    Delete(u8),
    /// A pod is force-deleted, and its VM continues to run.
    ForceDelete(u8),
    /// A process of no pod opens a device.
    ForeignOpens(u8),
    /// The process of no pod closes the device.
    ForeignCloses(u8),
    /// A device is unbound from its VFIO driver. If it is held, the unbind waits.
    Unbind(u8),
    /// A device is bound to its VFIO driver.
    Bind(u8),
    /// The plugin's monitor checks the node, and the plugin reports to the kubelet.
    MonitorPass,
    /// The plugin polls the kubelet's assignments, and reports to the kubelet.
    Poll,
    /// More than the settling time passes.
    TimePasses,
    /// The plugin is killed and starts again, with its state files or without.
    PluginRestarts { with_state: bool },
    /// The kubelet restarts, with its checkpoint or without.
    KubeletRestarts { with_checkpoint: bool },
    /// The kubelet has received the pods of the API server.
    KubeletSyncs,
}

impl World {
    /// Appends the events that can happen in a state.
    pub(super) fn moves(&self, state: &State, moves: &mut Vec<Move>) {
        self.moves_of_pods(state, moves);
        self.moves_of_devices(state, moves);
        moves.extend([Move::MonitorPass, Move::Poll, Move::TimePasses]);
        let kubelet = &state.kubelet;
        if !kubelet.synced {
            // Within a minute of the kubelet's start, which the plugin takes into account.
            moves.push(Move::KubeletSyncs);
        }
        moves.push(Move::PluginRestarts { with_state: true });
        if state.active().all(|(pod, device)| kubelet.file.get(&pod) == Some(&device)) {
            moves.push(Move::PluginRestarts { with_state: false });
        }
        if kubelet.restarts < self.bounds.kubelet_restarts {
            moves.push(Move::KubeletRestarts { with_checkpoint: true });
            // An assignment that the plugin did not learn before the checkpoint was lost is known to no program.
            if state.active().all(|(pod, device)| state.plugin.knows(pod, device)) {
                moves.push(Move::KubeletRestarts { with_checkpoint: false });
            }
        }
    }

    fn moves_of_pods(&self, state: &State, moves: &mut Vec<Move>) {
        let kubelet = &state.kubelet;
        for (pod, phase) in (0..).zip(&state.pods) {
            match *phase {
                Pod::ToCome if kubelet.synced && kubelet.allocatable() > state.requested() => {
                    // Pods that have not come differ in nothing, so only the first of them comes.
                    if pod == 0 || !matches!(state.pods.get(usize::from(pod) - 1), Some(Pod::ToCome)) {
                        moves.push(Move::Admit(pod));
                    }
                }
                Pod::Active(device) => {
                    let runs = state.device(device).holder == Holder::Pod(pod);
                    moves.push(Move::Delete(pod));
                    if runs {
                        moves.push(Move::ForceDelete(pod));
                    }
                    // A kubelet that does not know the pod's device may create its container with any device.
                    if kubelet.in_memory.contains_key(&pod) {
                        moves.push(if runs { Move::VmEnds(pod) } else { Move::VmStarts(pod) });
                    }
                }
                Pod::ToCome | Pod::Gone => {}
            }
        }
    }

    fn moves_of_devices(&self, state: &State, moves: &mut Vec<Move>) {
        for device in state.all_devices() {
            match state.device(device) {
                Device { holder: Holder::Foreign, .. } => moves.push(Move::ForeignCloses(device)),
                Device { bound: true, holder: Holder::None } if !self.held(state, device) => {
                    moves.push(Move::ForeignOpens(device));
                }
                _ => {}
            }
            if self.bounds.binds {
                match state.device(device) {
                    Device { bound: true, .. } => moves.push(Move::Unbind(device)),
                    Device { holder: Holder::None, .. } => moves.push(Move::Bind(device)),
                    Device { .. } => {}
                }
            }
        }
    }
}
