//! Plays the scenarios that the plugin was made for with real groups and the kubelet's own device manager. In each of
//! them allocatable - requested must be the number of devices that a new VM could open now.

use crate::host::Holder;
use crate::plugin::{has_words, list};
use crate::pods::Node;
use crate::scenarios::{EMULATION_DELAY, INTERVAL};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// The default settling time. The device of a pod is assigned from its admission on, and must not become Unhealthy
/// after it.
const SETTLING: Duration = Duration::from_secs(3);

/// Starts six pods with running VMs on a node with eight devices.
fn six(busy: &'static str) -> Result<Node> {
    let mut node = Node::start(busy)?;
    for _ in 0..6 {
        // With `--busy unhealthy` the scheduler soon sees no room.
        node.run_placed_pod()?;
    }
    Ok(node)
}

pub(crate) fn killed() -> Result<String> {
    let mut node = six("attributed")?;
    ensure!(node.numbers()? == (8, 8, 6), "{:?}", node.numbers()?);
    node.restart_plugin()?;
    node.wait_for((8, 8, 6))?;
    std::thread::sleep(SETTLING + INTERVAL);
    ensure!(node.numbers()? == (8, 8, 6), "after the settling time {:?}", node.numbers()?);
    for _ in 0..2 {
        node.run_pod()?;
    }
    ensure!(node.numbers()? == (8, 8, 8) && !node.has_room()?, "{:?}", node.numbers()?);
    Ok(format!(
        ": allocatable 8 - requested 6 after the restart, two more VMs run; kubelet {}",
        node.version()
    ))
}

pub(crate) fn killed_unhealthy() -> Result<String> {
    let mut node = six("unhealthy")?;
    node.restart_plugin()?;
    node.wait_for((8, 2, 6))?;
    let mut said = 0;
    for device in list()? {
        if device["health"] == "Unhealthy" {
            has_words(device["reason"].as_str().unwrap_or_default(), &["pid ", "holder"])?;
            said += 1;
        }
    }
    ensure!(said == 6, "list gives {said} reasons");
    Ok(": allocatable 2 - requested 6 = -4, list names six holders".to_owned())
}

pub(crate) fn foreign() -> Result<String> {
    let mut node = six("attributed")?;
    let address = *node.free()?.first().context("no device is free")?;
    let holder = Holder::full(address)?;
    node.wait_for((8, 7, 6))?;
    node.run_pod()?;
    ensure!(!node.has_room()?, "the scheduler sees room for a second pod: {:?}", node.numbers()?);
    ensure!(node.admit()?.is_err(), "the kubelet admits a second pod");
    let killed = holder.kill();
    node.wait_for((8, 8, 7))?;
    let freed = killed.elapsed();
    ensure!(freed <= INTERVAL + EMULATION_DELAY, "8 again only after {freed:?}");
    ensure!(node.run_pod()? == address, "another device was free");
    Ok(format!(
        ": 7 while it is held, one of two pods admitted; 8 again {} ms after its end, and the other is",
        freed.as_millis()
    ))
}
