//! Plays the fixed scenarios that the plugin was made for, with its default times: eight devices in groups of their
//! own, and six pods with running VMs.

use crate::world::{RESOURCE, Settings, World};
use anyhow::{Context, bail, ensure};
use kubelet_process::{Launcher, PodShape};
use std::time::{Duration, Instant};
use vfio_sim_node::Hold;

type Scenario = fn(&mut World) -> anyhow::Result<String>;

/// The name of each scenario (case and outcome), the plugin's `--busy` and `--busy-allocate`, and the function.
const ALL: [(&str, &str, &str, Scenario); 7] = [
    ("plugin killed with six of eight held: two more VMs run", "attributed", "reject", killed),
    ("the same with --busy unhealthy: -4 devices are free", "unhealthy", "reject", killed_unhealthy),
    ("foreign VM takes one of two: one is free, then two", "attributed", "reject", foreign),
    ("device of a hung VM is not allocated until it is free", "attributed", "reject", hung),
    ("device taken just now: refused after the list says so", "attributed", "reject", refused),
    ("pod after a refused one is allocated another device", "attributed", "reject", replaced),
    ("held device is substituted by a free one", "attributed", "substitute", substituted),
];
/// Longer than everything that is waited for here: settling takes 3 s, the end of a pod two lists.
const PATIENCE: Duration = Duration::from_secs(30);
/// The default interval, and half a second for a loaded host.
const AN_INTERVAL: Duration = Duration::from_millis(1000 + 500);

/// Plays all scenarios and prints a line for each. Returns true if all passed.
pub(crate) fn run(launcher: &Launcher, settings: &Settings) -> bool {
    let (mut passed, mut failed) = (0, 0);
    for (name, busy, busy_allocate, scenario) in ALL {
        let settings = Settings {
            busy: busy.to_owned(),
            busy_allocate: busy_allocate.to_owned(),
            as_shipped: true,
            ..settings.clone()
        };
        let outcome = World::new(launcher, &settings).and_then(|mut world| {
            six(&mut world)?;
            let result = scenario(&mut world);
            if result.is_err() {
                world.keep_logs();
            }
            Ok(format!("{} (kubelet {})", result?, world.manager()?.version))
        });
        match outcome {
            Ok(note) => {
                passed += 1;
                println!("ok {name}: {note}");
            }
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {error:#}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

/// Admits six pods and starts their VMs. With `--busy unhealthy` the scheduler soon sees no room for them.
fn six(world: &mut World) -> anyhow::Result<()> {
    wait(world, "allocatable is 8", |world| Ok(numbers(world)? == (8, 8, 0)))?;
    for _ in 0..6 {
        let index = world.admit(PodShape::One)?.map_err(anyhow::Error::msg)?;
        runs(world, index)?;
    }
    Ok(())
}

fn killed(world: &mut World) -> anyhow::Result<String> {
    world.restart_plugin()?;
    // The old plugin's devices count until the kubelet has seen its end, then those of the new plugin.
    wait(world, "the new plugin has listed six held devices", |world| {
        Ok(held(world)? == 6 && numbers(world)? == (8, 8, 6))
    })?;
    // A device that became Unhealthy would be so after the settling time.
    std::thread::sleep(Duration::from_secs(4));
    ensure!(numbers(world)? == (8, 8, 6), "after the settling time {:?}", numbers(world)?);
    for _ in 0..2 {
        let index = admitted(world)?;
        runs(world, index)?;
    }
    ensure!(numbers(world)? == (8, 8, 8), "{:?}", numbers(world)?);
    Ok("allocatable 8 - requested 6 after the restart, and two more VMs run".to_owned())
}

fn killed_unhealthy(world: &mut World) -> anyhow::Result<String> {
    world.restart_plugin()?;
    wait(world, "allocatable is 2", |world| Ok(numbers(world)? == (8, 2, 6)))?;
    let list = world.listed()?;
    let reasons: Vec<&str> = list.iter().filter_map(|device| device["reason"].as_str()).collect();
    let says = reasons.iter().filter(|reason| reason.contains("pid ") && reason.contains("pod "));
    ensure!(says.count() == 6, "list gives the reasons {reasons:?}");
    let refused = schedule(world)?.is_none();
    ensure!(refused, "the scheduler sees room");
    let first = reasons.first().copied().unwrap_or_default();
    Ok(format!("allocatable 2 - requested 6 = -4; one of six reasons in list: \"{first}\""))
}

fn foreign(world: &mut World) -> anyhow::Result<String> {
    let address = world.free().first().cloned().context("no device is free")?;
    world.start_foreign(&address, Hold::Device)?;
    let began = Instant::now();
    wait(world, "allocatable is 7", |world| Ok(numbers(world)? == (8, 7, 6)))?;
    let unhealthy = began.elapsed();
    let index = admitted(world)?;
    runs(world, index)?;
    ensure!(schedule(world)?.is_none(), "the scheduler sees room for a second pod");
    let reason = world.admit(PodShape::One)?.err().context("the kubelet admits a second pod")?;
    world.stop_foreign(0);
    let ended = Instant::now();
    wait(world, "allocatable is 8", |world| Ok(numbers(world)? == (8, 8, 7)))?;
    let freed = ended.elapsed();
    ensure!(freed <= AN_INTERVAL, "8 again only after {freed:?}");
    let index = admitted(world)?;
    runs(world, index)?;
    Ok(format!(
        "7 after {} ms (settling is 3 s); one more pod is admitted, the next is not ({}); 8 again {} ms after the holder's end, and another pod is admitted",
        unhealthy.as_millis(),
        reason.lines().next().unwrap_or_default(),
        freed.as_millis()
    ))
}

fn hung(world: &mut World) -> anyhow::Result<String> {
    let taken = world.assigned();
    let (hung, hung_group) =
        taken.first_key_value().map(|(id, group)| (id.clone(), *group)).context("no pods")?;
    let index = *world
        .pods_where(|pod| pod.allocated.values().flatten().any(|address| *address == hung))
        .first()
        .context("no pod has it")?;
    world.remove(index, false)?;
    // As many pods as the scheduler sees room for. None of them may be allocated the device.
    let mut admissions = 0;
    while admissions < 3 {
        let Some(admitted) = schedule(world)? else { break };
        admissions += 1;
        let Ok(index) = admitted else { continue };
        let allocated: Vec<String> = world
            .pods
            .get(index)
            .into_iter()
            .flat_map(|pod| pod.allocated.values().flatten().cloned())
            .collect();
        ensure!(!allocated.contains(&hung), "{hung} was allocated while it is held");
        runs(world, index)?;
    }
    wait(world, "only the device of the hung VM is Unhealthy", |world| Ok(numbers(world)? == (8, 7, 7)))?;
    ensure!(world.node.is_held(hung_group), "the group of the hung VM is free");
    let device = world.device(&hung)?;
    ensure!(device["health"] == "Unhealthy" && device["state"] == "held", "list --json has {device}");
    let reason = device["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(schedule(world)?.is_none(), "the scheduler sees room");
    world.stop_foreign(0);
    wait(world, "the device is Healthy again", |world| Ok(numbers(world)? == (8, 8, 7)))?;
    let index = admitted(world)?;
    runs(world, index)?;
    ensure!(world.assigned().contains_key(&hung), "another device was free");
    Ok(format!(
        "{hung} was Unhealthy (\"{reason}\") and allocated to none of {admissions} pods, and to the next pod after the VM had ended"
    ))
}

fn refused(world: &mut World) -> anyhow::Result<String> {
    let index = admitted(world)?;
    runs(world, index)?;
    let last = world.free().first().cloned().context("no device is free")?;
    world.start_foreign(&last, Hold::Device)?;
    let pid = world.foreign.first().context("no holder")?.vm.pid();
    let refusal = schedule(world)?
        .context("the scheduler sees no room already")?
        .err()
        .context("the pod was admitted")?;
    // Without waiting: the pod that replaces this one must be scheduled by a list with the device as Unhealthy.
    ensure!(numbers(world)? == (8, 7, 7), "after the refusal {:?}", numbers(world)?);
    for word in [last.as_str(), &format!("pid {pid}")] {
        ensure!(refusal.contains(word), "the refusal lacks {word:?}: {refusal}");
    }
    ensure!(schedule(world)?.is_none(), "the scheduler sees room for the pod that replaces it");
    world.stop_foreign(0);
    wait(world, "the device is Healthy again", |world| Ok(numbers(world)? == (8, 8, 7)))?;
    let index = admitted(world)?;
    runs(world, index)?;
    let message = refusal.find(&last).and_then(|at| refusal.get(at..)).unwrap_or(&refusal);
    Ok(format!("\"{}\"; allocatable was 7 before the refusal", message.lines().next().unwrap_or_default()))
}

fn replaced(world: &mut World) -> anyhow::Result<String> {
    // A group that is open without a device can only be detected by an open.
    let chosen = world.free().first().cloned().context("no device is free")?;
    world.start_foreign(&chosen, Hold::GroupOnly)?;
    let refusal =
        schedule(world)?.context("no room")?.err().with_context(|| format!("{chosen} was not requested"))?;
    ensure!(refusal.contains(&chosen), "{refusal}");
    ensure!(numbers(world)? == (8, 7, 6), "after the refusal {:?}", numbers(world)?);
    let index = admitted(world)?;
    runs(world, index)?;
    Ok(format!("{chosen} was refused; the next pod was admitted at once, and its VM runs"))
}

fn substituted(world: &mut World) -> anyhow::Result<String> {
    let chosen = world.free().first().cloned().context("no device is free")?;
    world.start_foreign(&chosen, Hold::GroupOnly)?;
    let index = admitted(world)?;
    runs(world, index)?;
    let allocated = world.pods.get(index).map(|pod| pod.allocated.clone()).unwrap_or_default();
    ensure!(allocated.values().flatten().all(|address| *address != chosen), "{chosen} was allocated");
    // The kubelet's state names the held device, which is Unhealthy. The substitute is not free.
    wait(world, "no device is free", |world| Ok(numbers(world)? == (8, 7, 7)))?;
    ensure!(schedule(world)?.is_none(), "the scheduler sees room");
    world.stop_foreign(0);
    wait(world, "the held device is free again", |world| Ok(numbers(world)? == (8, 8, 7)))?;
    let free: Vec<String> = allocated.values().flatten().cloned().collect();
    Ok(format!("{} instead of {chosen}; 7 - 7, then 8 - 7 when {chosen} was free", free.join(" ")))
}

/// Returns capacity, allocatable and requested.
fn numbers(world: &mut World) -> anyhow::Result<(usize, usize, usize)> {
    let (capacity, allocatable) = world.manager()?.capacity(RESOURCE)?;
    Ok((capacity, allocatable, world.requested()))
}

/// Schedules a pod with one device. Returns `None` if the scheduler sees no room, else the kubelet's answer.
fn schedule(world: &mut World) -> anyhow::Result<Option<Result<usize, String>>> {
    let (_, allocatable, requested) = numbers(world)?;
    if requested >= allocatable {
        return Ok(None);
    }
    world.admit(PodShape::One).map(Some)
}

fn admitted(world: &mut World) -> anyhow::Result<usize> {
    match schedule(world)? {
        Some(Ok(index)) => Ok(index),
        Some(Err(reason)) => bail!("not admitted: {reason}"),
        None => bail!("the scheduler sees no room: {:?}", numbers(world)?),
    }
}

/// Starts the VM of a pod, which must open its groups.
fn runs(world: &mut World, index: usize) -> anyhow::Result<()> {
    world.start_vm(index)?;
    let pod = world.pods.get(index).context("the pod is gone")?;
    ensure!(pod.vm.is_some(), "the VM of {} does not run", pod.spec.name);
    Ok(())
}

/// Returns how many devices the plugin lists as held.
fn held(world: &mut World) -> anyhow::Result<usize> {
    Ok(world
        .listed()?
        .iter()
        .filter(|device| device["state"] == "held" && !device["health"].is_null())
        .count())
}

fn wait(
    world: &mut World,
    what: &str,
    mut holds: impl FnMut(&mut World) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if holds(world)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("not within {PATIENCE:?}: {what}; capacity, allocatable and requested are {:?}", numbers(world)?)
}
