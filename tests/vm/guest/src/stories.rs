//! What the plugin was made for, with real groups and the kubelet's own device manager: allocatable - requested is the number
//! of devices that a new machine could open now.

use crate::host::Holder;
use crate::plugin::{has_words, list};
use crate::pods::Node;
use crate::scenarios::{EMULATION, INTERVAL};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// A pod is owned at once, so that nothing may be Unhealthy for being held even after this.
const SETTLING: Duration = Duration::from_secs(3);

/// Six of eight have a pod with a running machine.
fn six(busy: &'static str) -> Result<Node> {
    let mut node = Node::start(busy)?;
    for _ in 0..6 {
        // With `unhealthy` it soon sees none.
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
    Ok(format!(": allocatable 8 - requested 6 after it, two more machines run; kubelet {}", node.version()))
}

pub(crate) fn killed_unhealthy() -> Result<String> {
    let mut node = six("unhealthy")?;
    node.restart_plugin()?;
    node.wait_for((8, 2, 6))?;
    let mut said = 0;
    for device in list()? {
        if device["health"] == "Unhealthy" {
            has_words(device["reason"].as_str().unwrap_or_default(), &["held by pid", "holder"])?;
            said += 1;
        }
    }
    ensure!(said == 6, "list gives {said} reasons");
    Ok(": allocatable 2 - requested 6 = -4, list names six holders".to_owned())
}

pub(crate) fn foreign() -> Result<String> {
    let mut node = six("attributed")?;
    let address = *node.free()?.first().context("nothing is free")?;
    let holder = Holder::full(address)?;
    node.wait_for((8, 7, 6))?;
    node.run_pod()?;
    ensure!(!node.has_room()?, "the scheduler sees room for a second pod: {:?}", node.numbers()?);
    ensure!(node.admit()?.is_err(), "the kubelet admits a second pod");
    let killed = holder.kill();
    node.wait_for((8, 8, 7))?;
    let freed = killed.elapsed();
    ensure!(freed <= INTERVAL + EMULATION, "8 again only after {freed:?}");
    ensure!(node.run_pod()? == address, "another one was free");
    Ok(format!(
        ": 7 while it is held, one of two pods admitted; 8 again {} ms after its end, and the other is",
        freed.as_millis()
    ))
}
