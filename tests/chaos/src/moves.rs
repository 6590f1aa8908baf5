//! Defines moves: events on a node as data, so that a sequence can be repeated and shortened.

use crate::plugin_log::ASSIGNED_AS_SUBSTITUTE;
use crate::violation::violated;
use crate::world::{RESOURCE, World};
use kubelet_process::PodShape;
use std::fmt;
use std::time::Duration;
use vfio_sim_node::Hold;

/// One event. `pick`, modulo the number of candidates, selects the pod, VM or device. Without a candidate nothing
/// happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) kind: MoveKind,
    pub(crate) pick: usize,
}

/// The kinds of moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MoveKind {
    /// The scheduler places a pod, if it sees room, and the pod's VM starts.
    Admit(PodShape),
    /// The scheduler places a pod, if it sees room. Its VM starts later or never.
    AdmitOnly(PodShape),
    /// The VM of a pod without one starts.
    StartVm,
    /// The VM of a pod ends; the pod stays.
    StopVm,
    /// The VM of a pod ends, and its container is created again.
    RestartContainer,
    /// A pod is deleted after its VM has ended.
    Delete,
    /// A pod is deleted, and its groups stay held.
    DeleteWithHungVm,
    /// A pod is deleted by force while its VM runs.
    DeleteByForce,
    /// A VM without a pod starts.
    StartForeign(Hold),
    /// A foreign VM ends, or the rest of a deleted pod.
    StopForeign,
    Unbind,
    Bind,
    KillPlugin,
    StopPlugin,
    StartPlugin,
    RestartKubelet,
    /// The kubelet restarts, and one other move happens while it does not run.
    RestartKubeletMeanwhile,
    LoseCheckpoint,
    StopPodResources,
    StartPodResources,
    /// Time passes.
    Wait,
}

/// In this time the plugin has polled the kubelet after an Allocate: two intervals and more.
const POLLED: Duration = Duration::from_millis(200);
/// How long after a restart of the plugin or of the kubelet the kubelet may still call a closed socket, or end the stream of before.
const RECONNECTED: Duration = Duration::from_secs(5);
/// What the kubelet says of devices without a stream (`devicesToAllocate`).
const STREAM_HAS_ENDED: &str = "no healthy devices present";
/// In this time a plugin without a stream has registered again.
const REGISTERED_AGAIN: Duration = Duration::from_secs(2);

/// How often each kind is drawn.
const WEIGHTS: [(MoveKind, u32); 22] = [
    (MoveKind::Admit(PodShape::One), 10),
    (MoveKind::Admit(PodShape::Two), 5),
    (MoveKind::Admit(PodShape::TwoContainers), 5),
    (MoveKind::Admit(PodShape::InitThenMain), 5),
    (MoveKind::AdmitOnly(PodShape::One), 3),
    (MoveKind::AdmitOnly(PodShape::Two), 2),
    (MoveKind::StartVm, 6),
    (MoveKind::StopVm, 4),
    (MoveKind::RestartContainer, 4),
    (MoveKind::Delete, 10),
    (MoveKind::DeleteWithHungVm, 4),
    (MoveKind::DeleteByForce, 5),
    (MoveKind::StartForeign(Hold::Device), 6),
    (MoveKind::StartForeign(Hold::GroupOnly), 2),
    (MoveKind::StopForeign, 9),
    (MoveKind::Unbind, 4),
    (MoveKind::Bind, 5),
    (MoveKind::KillPlugin, 4),
    (MoveKind::RestartKubelet, 2),
    (MoveKind::RestartKubeletMeanwhile, 2),
    (MoveKind::LoseCheckpoint, 2),
    (MoveKind::Wait, 1),
];
/// How often pod resources or the plugin are stopped for one or a few moves. The checks are weaker meanwhile.
const STOPPED: u32 = 2;
/// What may happen while the kubelet does not run.
const MEANWHILE: [MoveKind; 6] = [
    MoveKind::Delete,
    MoveKind::DeleteByForce,
    MoveKind::StartForeign(Hold::Device),
    MoveKind::StopForeign,
    MoveKind::Unbind,
    MoveKind::KillPlugin,
];

/// What is stopped while a sequence is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stopped {
    pod_resources: bool,
    plugin: bool,
}

impl Move {
    /// Draws the next move. Pod resources and the plugin are stopped for a while now and then.
    pub(crate) fn draw(random: &mut fastrand::Rng, stopped: &mut Stopped) -> Self {
        let pick = random.usize(..1 << 16);
        for (is_stopped, start) in [
            (&mut stopped.pod_resources, MoveKind::StartPodResources),
            (&mut stopped.plugin, MoveKind::StartPlugin),
        ] {
            if *is_stopped && random.u32(..3) == 0 {
                *is_stopped = false;
                return Self { kind: start, pick };
            }
        }
        let total: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut left = random.u32(..total + 2 * STOPPED);
        for (kind, weight) in WEIGHTS {
            if left < weight {
                return Self { kind, pick };
            }
            left -= weight;
        }
        let (is_stopped, kind) = match left < STOPPED {
            true => (&mut stopped.pod_resources, MoveKind::StopPodResources),
            false => (&mut stopped.plugin, MoveKind::StopPlugin),
        };
        *is_stopped = true;
        Self { kind, pick }
    }

    /// Plays the move. Returns false if there was no candidate. `settled` says that nothing has happened since the
    /// last check.
    ///
    /// # Errors
    /// A violation, or the run itself cannot go on.
    pub(crate) fn play(self, world: &mut World, settled: bool) -> anyhow::Result<bool> {
        match self.kind {
            MoveKind::Admit(shape) => return self.admit(world, shape, settled, true),
            MoveKind::AdmitOnly(shape) => return self.admit(world, shape, settled, false),
            MoveKind::StartVm => {
                let Some(index) = self.choose(&world.pods_where(|pod| pod.vm.is_none())) else {
                    return Ok(false);
                };
                world.start_vm(index)?;
            }
            MoveKind::StopVm | MoveKind::RestartContainer => {
                let again = self.kind == MoveKind::RestartContainer;
                let indices = world.pods_where(|pod| pod.vm.is_some() && (again || pod.in_kubelet_state));
                let Some(index) = self.choose(&indices) else { return Ok(false) };
                world.stop_vm(index);
                if again {
                    world.start_vm(index)?;
                }
            }
            MoveKind::Delete => {
                let Some(index) = self.choose(&world.pods_where(|_| true)) else { return Ok(false) };
                world.stop_vm(index);
                world.remove(index, false)?;
            }
            MoveKind::DeleteWithHungVm | MoveKind::DeleteByForce => {
                let Some(index) = self.choose(&world.pods_where(|pod| pod.vm.is_some())) else {
                    return Ok(false);
                };
                world.remove(index, self.kind == MoveKind::DeleteWithHungVm)?;
            }
            MoveKind::StartForeign(hold) => {
                let open = world.bound.iter().filter(|(_, group)| !world.node.is_held(**group));
                let open: Vec<String> = open.map(|(address, _)| address.clone()).collect();
                let Some(address) = self.choose(&open) else { return Ok(false) };
                world.start_foreign(&address, hold)?;
            }
            MoveKind::StopForeign => {
                let indices: Vec<usize> = (0..world.foreign.len()).collect();
                let Some(index) = self.choose(&indices) else { return Ok(false) };
                world.stop_foreign(index);
            }
            MoveKind::Unbind => {
                let bound: Vec<String> = world.bound.keys().cloned().collect();
                // Most functions stay bound, so that enough devices are left.
                if world.unbound.len() >= 3 {
                    return Ok(false);
                }
                let Some(address) = self.choose(&bound) else { return Ok(false) };
                world.unbind(&address)?;
            }
            MoveKind::Bind => {
                let unbound: Vec<String> = world.unbound.keys().cloned().collect();
                let Some(address) = self.choose(&unbound) else { return Ok(false) };
                return world.bind(&address);
            }
            MoveKind::KillPlugin if world.plugin_runs() => world.restart_plugin()?,
            MoveKind::KillPlugin => return Ok(false),
            MoveKind::StopPlugin => return world.set_plugin_running(false),
            MoveKind::StartPlugin => return world.set_plugin_running(true),
            MoveKind::RestartKubelet => world.restart_kubelet(true, None)?,
            MoveKind::RestartKubeletMeanwhile => {
                let kind =
                    MEANWHILE.get(self.pick % MEANWHILE.len()).copied().unwrap_or(MoveKind::StopForeign);
                world.restart_kubelet(true, Some(Self { kind, pick: self.pick / MEANWHILE.len() }))?;
            }
            // Without a plugin the resource is not registered. A kubelet without its checkpoint then does not know
            // the pods' devices.
            MoveKind::LoseCheckpoint if !world.plugin_runs() => return Ok(false),
            MoveKind::LoseCheckpoint => {
                // If the checkpoint is lost before the plugin has polled after an Allocate, the plugin cannot know
                // which pod the Allocate was for. A pod with a container that is created after that gets its devices by a
                // new Allocate.
                std::thread::sleep(POLLED);
                world.wait_until_listed();
                while let Some(index) = world.pods_where(|pod| pod.vm.is_none()).pop() {
                    world.remove(index, false)?;
                }
                world.restart_kubelet(false, None)?;
            }
            MoveKind::StopPodResources => return world.serve_pod_resources(false),
            MoveKind::StartPodResources => return world.serve_pod_resources(true),
            MoveKind::Wait => {
                std::thread::sleep(Duration::from_millis(u64::try_from(self.pick).unwrap_or(0) % 400));
            }
        }
        Ok(true)
    }

    fn choose<T: Clone>(self, among: &[T]) -> Option<T> {
        among.get(self.pick.checked_rem(among.len())?).cloned()
    }

    fn admit(self, world: &mut World, shape: PodShape, settled: bool, start: bool) -> anyhow::Result<bool> {
        let (_, allocatable) = world.manager()?.capacity(RESOURCE)?;
        if world.requested() + shape.count() > allocatable {
            return Ok(false);
        }
        // The containers of a pod are allocated devices one after the other, and all devices of a group go to one
        // container.
        let room = world.free_groups().len() >= shape.count();
        let mut admitted = world.admit(shape)?;
        // A kubelet up to 1.36 may call a socket of before a restart: the end of an old stream disconnects the new
        // client (`runClient`), until the plugin registers again. Each kubelet marks all devices unhealthy when a stream ends
        // (`markResourceUnhealthy`), until the new stream has a list. The next admission must succeed.
        if admitted
            .as_ref()
            .is_err_and(|reason| is_of_a_closed_socket(reason) || reason.contains(STREAM_HAS_ENDED))
            && world.restarted_within(RECONNECTED)
        {
            std::thread::sleep(REGISTERED_AGAIN);
            admitted = world.admit(shape)?;
        }
        match admitted {
            Ok(index) if start => world.start_vm(index)?,
            Ok(_) => {}
            Err(reason) if settled && room && !is_excused(world, &reason) => {
                violated!(
                    "allocatable {allocatable} - requested {} has room, but a pod with {} devices is not admitted: {reason}{world}",
                    world.requested(),
                    shape.count()
                )
            }
            Err(_) => {}
        }
        Ok(true)
    }
}

/// Returns whether the kubelet could not reach the plugin's socket.
fn is_of_a_closed_socket(reason: &str) -> bool {
    ["connection error", "client connection is closing"].iter().any(|text| reason.contains(text))
}

/// Returns true if a refusal is right although the numbers show room: no plugin runs, and the kubelet has not taken that in yet; the
/// plugin cannot detect the state of the device; or the device is a substitute. A substitute stays assigned to a pod that has just
/// ended until two lists of pods lack the pod; the kubelet's state names the other device.
fn is_excused(world: &World, reason: &str) -> bool {
    let substitute = world.substitutes() && reason.contains(ASSIGNED_AS_SUBSTITUTE);
    let is_stopped = !world.plugin_runs() && is_of_a_closed_socket(reason);
    is_stopped || substitute || world.undetectable().iter().any(|device| reason.contains(device))
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} #{}", self.kind, self.pick)
    }
}
