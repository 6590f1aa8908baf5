//! Measures calls of the core: calls ROOT FREE_GROUP HELD_GROUP prints one line of JSON. Each figure is the time of one call
//! in nanoseconds, the best of five rounds. It opens the free group many times: do not run it where a VM may open it.

use anyhow::{Context, ensure};
use std::hint::black_box;
use std::time::Instant;
use vfio_probe::{Buffer, GroupId, Occupancy, Root};

const ROUNDS: usize = 5;
const CALLS: u32 = 20_000;

fn best(mut call: impl FnMut()) -> u128 {
    let round = |_| {
        let began = Instant::now();
        (0..CALLS).for_each(|_| call());
        began.elapsed().as_nanos() / u128::from(CALLS)
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [root, free, held] = words.as_slice() else {
        anyhow::bail!("usage: calls ROOT FREE_GROUP HELD_GROUP")
    };
    let root = Root::open(root)?;
    let free: GroupId = free.parse().context("FREE_GROUP")?;
    let held: GroupId = held.parse().context("HELD_GROUP")?;
    let states = (root.probe(free), root.probe(held));
    ensure!(
        states == (Occupancy::Free, Occupancy::Held),
        "the groups must be free and held, but are {states:?}"
    );
    let mut buffer = Buffer::new();
    let peek = best(|| {
        let _ = black_box(root.peek(free, &mut buffer));
    });
    let probe_free = best(|| {
        black_box(root.probe(free));
    });
    let probe_held = best(|| {
        black_box(root.probe(held));
    });
    println!(
        r#"{{"language":"rust","peek_ns":{peek},"probe_free_ns":{probe_free},"probe_held_ns":{probe_held}}}"#
    );
    Ok(())
}
