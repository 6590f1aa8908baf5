//! What can happen to a node, as data: a story that was played can be played again, and made shorter.

use crate::violation::violated;
use crate::world::{RESOURCE, World};
use kubelet_process::PodShape;
use std::fmt;
use std::time::Duration;
use vfio_sim_node::Hold;

/// One thing that happens. Which pod, machine or device it happens to is `pick`, modulo what there is; where there is none
/// nothing happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) what: What,
    pub(crate) pick: usize,
}

/// Kinds of moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// The scheduler places a pod, if it sees room, and its machine starts.
    Admit(PodShape),
    /// The same, but its machine starts later or never.
    AdmitOnly(PodShape),
    /// The machine of a pod that has none starts.
    StartMachine,
    /// A pod's machine ends, the pod stays.
    StopMachine,
    /// A pod's machine ends and its container is created again.
    RestartContainer,
    /// A pod is deleted as it should be.
    Delete,
    /// A pod is deleted, and its groups stay held long after it.
    DeleteHung,
    /// A pod is deleted by force while its machine runs.
    DeleteByForce,
    /// A machine without a pod starts.
    StartForeign(Hold),
    /// One ends, or what is left of a deleted pod's.
    EndForeign,
    Unbind,
    Bind,
    KillPlugin,
    PluginAway,
    PluginBack,
    RestartKubelet,
    /// Something happens while there is no kubelet.
    KubeletAway,
    LoseCheckpoint,
    PodResourcesAway,
    PodResourcesBack,
    /// Time passes.
    Wait,
}

/// The plugin has asked the kubelet about an Allocate: two intervals and more.
const ASKED: Duration = Duration::from_millis(200);

/// What is drawn how often.
const CHANCES: [(What, u32); 22] = [
    (What::Admit(PodShape::One), 10),
    (What::Admit(PodShape::Two), 5),
    (What::Admit(PodShape::TwoContainers), 5),
    (What::Admit(PodShape::HandsOn), 5),
    (What::AdmitOnly(PodShape::One), 3),
    (What::AdmitOnly(PodShape::Two), 2),
    (What::StartMachine, 6),
    (What::StopMachine, 4),
    (What::RestartContainer, 4),
    (What::Delete, 10),
    (What::DeleteHung, 4),
    (What::DeleteByForce, 5),
    (What::StartForeign(Hold::Device), 6),
    (What::StartForeign(Hold::GroupOnly), 2),
    (What::EndForeign, 9),
    (What::Unbind, 4),
    (What::Bind, 5),
    (What::KillPlugin, 4),
    (What::RestartKubelet, 2),
    (What::KubeletAway, 2),
    (What::LoseCheckpoint, 2),
    (What::Wait, 1),
];
/// Away for one to a few moves; drawn apart, since what is promised meanwhile is less.
const AWAY: u32 = 2;
/// What happens while there is no kubelet.
const MEANWHILE: [What; 6] = [
    What::Delete,
    What::DeleteByForce,
    What::StartForeign(Hold::Device),
    What::EndForeign,
    What::Unbind,
    What::KillPlugin,
];

/// What is away while a story is drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Away {
    pod_resources: bool,
    plugin: bool,
}

impl Move {
    /// The next one; pod resources and the plugin are away now and then for a while.
    pub(crate) fn draw(random: &mut fastrand::Rng, away: &mut Away) -> Self {
        let pick = random.usize(..1 << 16);
        for (away, back) in
            [(&mut away.pod_resources, What::PodResourcesBack), (&mut away.plugin, What::PluginBack)]
        {
            if *away && random.u32(..3) == 0 {
                *away = false;
                return Self { what: back, pick };
            }
        }
        let total: u32 = CHANCES.iter().map(|(_, weight)| weight).sum();
        let mut left = random.u32(..total + 2 * AWAY);
        for (what, weight) in CHANCES {
            if left < weight {
                return Self { what, pick };
            }
            left -= weight;
        }
        let (away, what) = match left < AWAY {
            true => (&mut away.pod_resources, What::PodResourcesAway),
            false => (&mut away.plugin, What::PluginAway),
        };
        *away = true;
        Self { what, pick }
    }

    /// Makes it happen; whether there was something for it to happen to. `settled`: nothing has happened since the last check.
    ///
    /// # Errors
    /// A violation, or the run itself cannot go on.
    pub(crate) fn play(self, world: &mut World, settled: bool) -> anyhow::Result<bool> {
        match self.what {
            What::Admit(shape) => return self.admit(world, shape, settled, true),
            What::AdmitOnly(shape) => return self.admit(world, shape, settled, false),
            What::StartMachine => {
                let Some(place) = self.choose(&world.pods_where(|pod| pod.vm.is_none())) else {
                    return Ok(false);
                };
                world.start_machine(place)?;
            }
            What::StopMachine | What::RestartContainer => {
                let again = self.what == What::RestartContainer;
                let places = world.pods_where(|pod| pod.vm.is_some() && (again || pod.in_books));
                let Some(place) = self.choose(&places) else { return Ok(false) };
                world.stop_machine(place);
                if again {
                    world.start_machine(place)?;
                }
            }
            What::Delete => {
                let Some(place) = self.choose(&world.pods_where(|_| true)) else { return Ok(false) };
                world.stop_machine(place);
                world.remove(place, false)?;
            }
            What::DeleteHung | What::DeleteByForce => {
                let Some(place) = self.choose(&world.pods_where(|pod| pod.vm.is_some())) else {
                    return Ok(false);
                };
                world.remove(place, self.what == What::DeleteHung)?;
            }
            What::StartForeign(hold) => {
                let open = world.bound.iter().filter(|(_, group)| !world.node.is_held(**group));
                let open: Vec<String> = open.map(|(address, _)| address.clone()).collect();
                let Some(address) = self.choose(&open) else { return Ok(false) };
                world.start_foreign(&address, hold)?;
            }
            What::EndForeign => {
                let places: Vec<usize> = (0..world.foreign.len()).collect();
                let Some(place) = self.choose(&places) else { return Ok(false) };
                world.end_foreign(place);
            }
            What::Unbind => {
                let bound: Vec<String> = world.bound.keys().cloned().collect();
                // Most stay bound, or there is nothing left to play with.
                if world.unbound.len() >= 3 {
                    return Ok(false);
                }
                let Some(address) = self.choose(&bound) else { return Ok(false) };
                world.unbind(&address)?;
            }
            What::Bind => {
                let unbound: Vec<String> = world.unbound.keys().cloned().collect();
                let Some(address) = self.choose(&unbound) else { return Ok(false) };
                return world.bind(&address);
            }
            What::KillPlugin if world.plugin_runs() => world.restart_plugin()?,
            What::KillPlugin => return Ok(false),
            What::PluginAway => return world.run_plugin(false),
            What::PluginBack => return world.run_plugin(true),
            What::RestartKubelet => world.restart_kubelet(true, None)?,
            What::KubeletAway => {
                let what = MEANWHILE.get(self.pick % MEANWHILE.len()).copied().unwrap_or(What::EndForeign);
                world.restart_kubelet(true, Some(Self { what, pick: self.pick / MEANWHILE.len() }))?;
            }
            // What comes of pods of a resource that nobody has registered a kubelet without its books does not say.
            What::LoseCheckpoint if !world.plugin_runs() => return Ok(false),
            What::LoseCheckpoint => {
                // Of an Allocate that nobody was asked about before the books were lost, nobody knows any more whose it was;
                // and what a pod has whose container is created after that, its next Allocate says.
                std::thread::sleep(ASKED);
                world.wait_until_listed();
                while let Some(place) = world.pods_where(|pod| pod.vm.is_none()).pop() {
                    world.remove(place, false)?;
                }
                world.restart_kubelet(false, None)?;
            }
            What::PodResourcesAway => return world.serve_pod_resources(false),
            What::PodResourcesBack => return world.serve_pod_resources(true),
            What::Wait => {
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
        // Containers of one pod are given devices one after the other, and those of one group go to one container only.
        let room = world.free_groups().len() >= shape.count();
        match world.admit(shape)? {
            Ok(place) if start => world.start_machine(place)?,
            Ok(_) => {}
            Err(reason) if settled && room && !is_excused(world, &reason) => {
                violated!(
                    "{allocatable} allocatable - {} requested, but a pod with {} is not admitted: {reason}{world}",
                    world.requested(),
                    shape.count()
                )
            }
            Err(_) => {}
        }
        Ok(true)
    }
}

/// What nobody can tell; and what was given in place of another to a pod that has just ended, as the kubelet knows and its books
/// do not: until two lists have shown that, it is that pod's.
fn is_excused(world: &World, reason: &str) -> bool {
    let swapped = world.substitutes() && reason.contains("was given it in place of another");
    swapped || world.unseen().iter().any(|device| reason.contains(device))
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} #{}", self.what, self.pick)
    }
}
