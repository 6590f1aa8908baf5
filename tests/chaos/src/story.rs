//! A story: steps that were drawn from a seed, and how they are played on a node of their own.

use crate::check::Checker;
use crate::launcher::Launcher;
use crate::moves::{Away, Move};
use crate::world::{Restarts, Settings, World};
use std::fmt;
use std::time::Duration;

/// Longer than the plugin's interval and settling time together.
const PAUSE: Duration = Duration::from_millis(200);

/// Moves between two checks: mostly one, else several at once.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Its place in the story that was drawn.
    pub(crate) number: usize,
    moves: Vec<Move>,
    /// Whether to wait and look again.
    pause: bool,
}

/// What was played.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) moves: u64,
    pub(crate) pods: u64,
    pub(crate) checks: u64,
    pub(crate) restarts: Restarts,
}

/// Draws a story.
pub(crate) fn draw(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut away = Away::default();
    let mut step = |number| {
        let several = random.u32(..5) == 0;
        let count = if several { random.usize(2..4) } else { 1 };
        let moves = (0..count).map(|_| Move::draw(&mut random, &mut away)).collect();
        Step { number, moves, pause: random.u32(..6) == 0 }
    };
    (0..steps).map(&mut step).collect()
}

/// Plays a story on a new node. The number of the step that failed comes with its error.
pub(crate) fn play(
    launcher: &Launcher,
    settings: &Settings,
    story: &[Step],
    counts: &mut Counts,
) -> Result<(), (usize, anyhow::Error)> {
    let mut world = World::new(launcher, settings).map_err(|error| (0, error))?;
    let mut checker = Checker::default();
    let outcome = steps(&mut world, &mut checker, story, counts);
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
    story: &[Step],
    counts: &mut Counts,
) -> Result<(), (usize, anyhow::Error)> {
    checker.settle(world).map_err(|error| (0, error))?;
    for (number, step) in story.iter().enumerate() {
        let mut play = || {
            world.say(step);
            checker.settle(world)?;
            for (place, what) in step.moves.iter().enumerate() {
                counts.moves += u64::from(what.play(world, place == 0)?);
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
        for (place, what) in self.moves.iter().enumerate() {
            f.write_str(if place > 0 { ", at once " } else { " " })?;
            write!(f, "{what}")?;
        }
        if self.pause { f.write_str(", then a pause") } else { Ok(()) }
    }
}
