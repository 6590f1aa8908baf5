//! Draws sequences of steps from a seed, and plays a sequence on a node of its own.

use crate::checker::Checker;
use crate::moves::{Move, Stopped};
use crate::plugin_log;
use crate::violation::Violation;
use crate::world::{Restarts, Settings, World};
use kubelet_process::Launcher;
use std::fmt;
use std::time::Duration;

/// Longer than the plugin's interval and settling time together.
const PAUSE: Duration = Duration::from_millis(200);

/// The moves between two checks: mostly one, else several at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The step's number in the sequence that was drawn.
    pub(crate) number: usize,
    moves: Vec<Move>,
    /// Wait after the check, and check again.
    pause: bool,
}

/// What was played so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) moves: u64,
    pub(crate) pods: u64,
    pub(crate) checks: u64,
    pub(crate) restarts: Restarts,
}

/// Draws a sequence of `steps` steps.
pub(crate) fn draw(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stopped = Stopped::default();
    let mut step = |number| {
        let several = random.u32(..5) == 0;
        let count = if several { random.usize(2..4) } else { 1 };
        let moves = (0..count).map(|_| Move::draw(&mut random, &mut stopped)).collect();
        Step { number, moves, pause: random.u32(..6) == 0 }
    };
    (0..steps).map(&mut step).collect()
}

/// Plays a sequence on a new node.
///
/// # Errors
///
/// The index of the step that failed, with a violation or another error.
pub(crate) fn play(
    launcher: &Launcher,
    settings: &Settings,
    sequence: &[Step],
    counts: &mut Counts,
) -> Result<(), (usize, anyhow::Error)> {
    let mut world = World::new(launcher, settings).map_err(|error| (0, error))?;
    let mut checker = Checker::default();
    let mut outcome = steps(&mut world, &mut checker, sequence, counts);
    if let Err((_, error)) = &mut outcome
        && let Some(violation) = error.downcast_mut::<Violation>()
    {
        violation.log = plugin_log::end(&world.log);
    }
    counts.checks += checker.checks;
    counts.pods += u64::from(world.pods_so_far());
    counts.restarts.add(world.restarts);
    if outcome.is_err() {
        world.keep_logs();
    }
    outcome
}

fn steps(
    world: &mut World,
    checker: &mut Checker,
    sequence: &[Step],
    counts: &mut Counts,
) -> Result<(), (usize, anyhow::Error)> {
    checker.settle(world).map_err(|error| (0, error))?;
    for (number, step) in sequence.iter().enumerate() {
        let mut play = || {
            world.print(step);
            checker.settle(world)?;
            for (index, one) in step.moves.iter().enumerate() {
                counts.moves += u64::from(one.play(world, index == 0)?);
            }
            checker.settle(world)?;
            if step.pause {
                std::thread::sleep(PAUSE);
                checker.settle(world)?;
            }
            anyhow::Ok(())
        };
        play().map_err(|error| (number, error))?;
        counts.steps += 1;
    }
    Ok(())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.number)?;
        for (index, one) in self.moves.iter().enumerate() {
            f.write_str(if index > 0 { ", concurrently " } else { " " })?;
            write!(f, "{one}")?;
        }
        if self.pause { f.write_str(", then a pause") } else { Ok(()) }
    }
}
