//! Measures calls of the core: calls ROOT FREE_GROUP HELD_GROUP FREE_DEVICE prints one line of JSON. Each figure is the time of
//! one call in nanoseconds, the best of many short rounds. It opens the free group many times: do not run it where a VM may open it.

use anyhow::{Context, bail, ensure};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, GroupId, Occupancy, Root, Watch, watch};

/// A round takes milliseconds at most, so that another program rarely interrupts all of them.
const ROUNDS: usize = 200;
const CALLS: u32 = 200;
/// Of a call that takes a tenth of a millisecond or more.
const SLOW_CALLS: u32 = 4;

fn best<T>(calls: u32, mut call: impl FnMut() -> T) -> u128 {
    let round = |_| {
        let began = Instant::now();
        (0..calls).for_each(|_| drop(black_box(call())));
        began.elapsed().as_nanos() / u128::from(calls)
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, free, held, device] = words.as_slice() else {
        bail!("usage: calls ROOT FREE_GROUP HELD_GROUP FREE_DEVICE")
    };
    let root = Root::open(path)?;
    let enable = Path::new(path).join("sys/bus/pci/devices").join(device).join("enable");
    let free: GroupId = free.parse().context("FREE_GROUP")?;
    let held: GroupId = held.parse().context("HELD_GROUP")?;
    let device = device.parse().context("FREE_DEVICE")?;
    let states = (root.probe(free), root.probe(held));
    ensure!(
        states == (Occupancy::Free, Occupancy::Held),
        "the groups must be free and held, but are {states:?}"
    );
    let mut watch = Watch::open(&root, watch::Options::default())?;
    ensure!(watch.wait_until_held(held, Some(Duration::from_secs(20)))?, "the watch is not ready");
    ensure!(root.device_nodes(free).is_ok() && root.hardware(device).is_ok(), "a call fails");
    let mut buffer = Buffer::new();
    let mut figures = String::new();
    let mut add = |name: &str, nanoseconds: u128| figures += &format!(",\"{name}_ns\":{nanoseconds}");
    add("enable", best(CALLS, || std::fs::read_to_string(&enable)));
    add("watch", best(CALLS, || watch.monitor().group(free).map(|group| group.state)));
    add("peek", best(CALLS, || root.peek(free, &mut buffer)));
    add("probe_free", best(CALLS, || root.probe(free)));
    add("probe_held", best(CALLS, || root.probe(held)));
    add("nodes", best(CALLS, || root.device_nodes(free)));
    add("hardware", best(CALLS, || root.hardware(device)));
    add(
        "scan",
        best(SLOW_CALLS, || root.scan(Detail::Full, &mut Buffer::new(), |device| drop(black_box(device)))),
    );
    add("snapshot", best(SLOW_CALLS, || root.snapshot(Detail::Full, None)));
    println!(r#"{{"language":"rust"{figures}}}"#);
    Ok(())
}
