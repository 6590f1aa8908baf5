//! The stories that the plugin was made for, told step by step with its times as shipped: eight devices, each alone in its
//! group, six pods with their machines.

use crate::launcher::Launcher;
use crate::world::{RESOURCE, Settings, World};
use anyhow::{Context, bail, ensure};
use kubelet_process::PodShape;
use std::time::{Duration, Instant};
use vfio_sim_node::Hold;

type Story = fn(&mut World) -> anyhow::Result<String>;

/// What each is called, with which policy and which guard it is told.
const ALL: [(&str, &str, &str, Story); 7] = [
    ("the plugin is killed while six of eight are held", "attributed", "reject", killed),
    ("the same with the policy unhealthy", "unhealthy", "reject", killed_unhealthy),
    ("a foreign holder takes one of two, and leaves it", "attributed", "reject", foreign),
    ("a pod is deleted by force while its machine hangs", "attributed", "reject", hung),
    ("the last device was taken a moment ago", "attributed", "reject", refused),
    ("the pod that replaces a refused one is given another", "attributed", "reject", replaced),
    ("a held device is swapped for a free one", "attributed", "substitute", substituted),
];
/// Longer than anything here takes; settling is 3 s, a pod is gone after two lists.
const PATIENCE: Duration = Duration::from_secs(30);
/// The interval as shipped, and what a busy machine adds.
const AN_INTERVAL: Duration = Duration::from_millis(1000 + 500);

/// Tells them all; whether every one went as it must.
pub(crate) fn tell(launcher: &Launcher, settings: &Settings) -> bool {
    let (mut passed, mut failed) = (0, 0);
    for (name, busy, busy_allocate, story) in ALL {
        let settings = Settings {
            busy: busy.to_owned(),
            busy_allocate: busy_allocate.to_owned(),
            as_shipped: true,
            ..settings.clone()
        };
        let told = World::new(launcher, &settings).and_then(|mut world| {
            six(&mut world)?;
            let outcome = story(&mut world);
            if outcome.is_err() {
                world.keep_logs();
            }
            Ok(format!("{} (kubelet {})", outcome?, world.manager()?.version))
        });
        match told {
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

/// Six pods are admitted, and their machines run; with the policy `unhealthy` the scheduler soon sees no room for them.
fn six(world: &mut World) -> anyhow::Result<()> {
    wait(world, "eight devices are offered", |world| Ok(numbers(world)? == (8, 8, 0)))?;
    for _ in 0..6 {
        let place = world.admit(PodShape::One)?.map_err(anyhow::Error::msg)?;
        runs(world, place)?;
    }
    Ok(())
}

fn killed(world: &mut World) -> anyhow::Result<String> {
    world.restart_plugin()?;
    // The old one's devices count until the kubelet has seen its end, and then the new one's.
    wait(world, "the new plugin has told of six holders", |world| {
        Ok(held(world)? == 6 && numbers(world)? == (8, 8, 6))
    })?;
    // Were they Unhealthy after the settling time, they were too late.
    std::thread::sleep(Duration::from_secs(4));
    ensure!(numbers(world)? == (8, 8, 6), "after the settling time {:?}", numbers(world)?);
    for _ in 0..2 {
        let place = admitted(world)?;
        runs(world, place)?;
    }
    ensure!(numbers(world)? == (8, 8, 8), "{:?}", numbers(world)?);
    Ok("allocatable 8 - requested 6 after it, and two more machines run".to_owned())
}

fn killed_unhealthy(world: &mut World) -> anyhow::Result<String> {
    world.restart_plugin()?;
    wait(world, "allocatable is 2", |world| Ok(numbers(world)? == (8, 2, 6)))?;
    let list = world.listed()?;
    let reasons: Vec<&str> = list.iter().filter_map(|device| device["reason"].as_str()).collect();
    let says = reasons.iter().filter(|reason| reason.contains("held by pid") && reason.contains("pod "));
    ensure!(says.count() == 6, "list says {reasons:?}");
    let refused = schedule(world)?.is_none();
    ensure!(refused, "the scheduler sees room");
    let first = reasons.first().copied().unwrap_or_default();
    Ok(format!("allocatable 2 - requested 6 = -4; list says six times like \"{first}\""))
}

fn foreign(world: &mut World) -> anyhow::Result<String> {
    let address = world.free().first().cloned().context("nothing is free")?;
    world.start_foreign(&address, Hold::Device)?;
    let began = Instant::now();
    wait(world, "allocatable is 7", |world| Ok(numbers(world)? == (8, 7, 6)))?;
    let unhealthy = began.elapsed();
    let place = admitted(world)?;
    runs(world, place)?;
    ensure!(schedule(world)?.is_none(), "the scheduler sees room for a second pod");
    let reason = world.admit(PodShape::One)?.err().context("the kubelet admits a second pod")?;
    world.end_foreign(0);
    let ended = Instant::now();
    wait(world, "allocatable is 8", |world| Ok(numbers(world)? == (8, 8, 7)))?;
    let freed = ended.elapsed();
    ensure!(freed <= AN_INTERVAL, "8 again only after {freed:?}");
    let place = admitted(world)?;
    runs(world, place)?;
    Ok(format!(
        "7 after {} ms (settling is 3 s); one more is admitted, the next is not ({}); 8 again {} ms after the holder's end, and it is",
        unhealthy.as_millis(),
        reason.lines().next().unwrap_or_default(),
        freed.as_millis()
    ))
}

fn hung(world: &mut World) -> anyhow::Result<String> {
    let taken = world.owned();
    let (hung, hung_group) =
        taken.first_key_value().map(|(id, group)| (id.clone(), *group)).context("no pods")?;
    let place = *world
        .pods_where(|pod| pod.given.values().flatten().any(|address| *address == hung))
        .first()
        .context("nobody's")?;
    world.remove(place, false)?;
    // At once and later, as many as there is room for: none of them is given it.
    let mut admissions = 0;
    while admissions < 3 {
        let Some(admitted) = schedule(world)? else { break };
        admissions += 1;
        let Ok(place) = admitted else { continue };
        let given: Vec<String> =
            world.pods.get(place).into_iter().flat_map(|pod| pod.given.values().flatten().cloned()).collect();
        ensure!(!given.contains(&hung), "{hung} was given away while it is held");
        runs(world, place)?;
    }
    wait(world, "the hung device alone is Unhealthy", |world| Ok(numbers(world)? == (8, 7, 7)))?;
    ensure!(world.node.is_held(hung_group), "it hangs no longer");
    let device = world.device(&hung)?;
    ensure!(device["health"] == "Unhealthy" && device["state"] == "held", "list says {device}");
    let reason = device["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(schedule(world)?.is_none(), "the scheduler sees room");
    world.end_foreign(0);
    wait(world, "it is offered again", |world| Ok(numbers(world)? == (8, 8, 7)))?;
    let place = admitted(world)?;
    runs(world, place)?;
    ensure!(world.owned().contains_key(&hung), "another was free");
    Ok(format!(
        "{hung} was given to none of {admissions} pods and Unhealthy (\"{reason}\"), and to the next when its machine had ended"
    ))
}

fn refused(world: &mut World) -> anyhow::Result<String> {
    let place = admitted(world)?;
    runs(world, place)?;
    let last = world.free().first().cloned().context("nothing is free")?;
    world.start_foreign(&last, Hold::Device)?;
    let pid = world.foreign.first().context("no holder")?.vm.pid();
    let refusal =
        schedule(world)?.context("the scheduler knows already")?.err().context("it was admitted")?;
    // Not a moment later: whoever replaces the pod must find a list that says so.
    ensure!(numbers(world)? == (8, 7, 7), "after the refusal {:?}", numbers(world)?);
    for word in [last.as_str(), "is held by", &format!("pid {pid}")] {
        ensure!(refusal.contains(word), "the refusal does not say {word:?}: {refusal}");
    }
    ensure!(schedule(world)?.is_none(), "the scheduler sees room for the pod that replaces it");
    world.end_foreign(0);
    wait(world, "it is offered again", |world| Ok(numbers(world)? == (8, 8, 7)))?;
    let place = admitted(world)?;
    runs(world, place)?;
    let told = refusal.find(&last).and_then(|at| refusal.get(at..)).unwrap_or(&refusal);
    Ok(format!("\"{}\", and allocatable 7 before it", told.lines().next().unwrap_or_default()))
}

fn replaced(world: &mut World) -> anyhow::Result<String> {
    // A group that is open without a device is seen by nobody until it is opened.
    let chosen = world.free().first().cloned().context("nothing is free")?;
    world.start_foreign(&chosen, Hold::GroupOnly)?;
    let refusal =
        schedule(world)?.context("no room")?.err().with_context(|| format!("{chosen} was not asked for"))?;
    ensure!(refusal.contains(&chosen), "{refusal}");
    ensure!(numbers(world)? == (8, 7, 6), "after the refusal {:?}", numbers(world)?);
    let place = admitted(world)?;
    runs(world, place)?;
    Ok(format!("{chosen} was refused, the next pod was admitted at once, and its machine runs"))
}

fn substituted(world: &mut World) -> anyhow::Result<String> {
    let chosen = world.free().first().cloned().context("nothing is free")?;
    world.start_foreign(&chosen, Hold::GroupOnly)?;
    let place = admitted(world)?;
    runs(world, place)?;
    let given = world.pods.get(place).map(|pod| pod.given.clone()).unwrap_or_default();
    ensure!(given.values().flatten().all(|address| *address != chosen), "{chosen} was given");
    // The kubelet's books name the held one, and it is not offered; what was given instead is not free.
    wait(world, "nothing is left", |world| Ok(numbers(world)? == (8, 7, 7)))?;
    ensure!(schedule(world)?.is_none(), "the scheduler sees room");
    world.end_foreign(0);
    wait(world, "the held one is free again", |world| Ok(numbers(world)? == (8, 8, 7)))?;
    let free: Vec<String> = given.values().flatten().cloned().collect();
    Ok(format!("{} instead of {chosen}; then 7 - 7, and 8 - 7 when that was free", free.join(" ")))
}

/// Capacity, allocatable, requested.
fn numbers(world: &mut World) -> anyhow::Result<(usize, usize, usize)> {
    let (capacity, allocatable) = world.manager()?.capacity(RESOURCE)?;
    Ok((capacity, allocatable, world.requested()))
}

/// What the scheduler does with a pod that asks for one: nothing where it sees no room.
fn schedule(world: &mut World) -> anyhow::Result<Option<Result<usize, String>>> {
    let (_, allocatable, requested) = numbers(world)?;
    if requested >= allocatable {
        return Ok(None);
    }
    world.admit(PodShape::One).map(Some)
}

fn admitted(world: &mut World) -> anyhow::Result<usize> {
    match schedule(world)? {
        Some(Ok(place)) => Ok(place),
        Some(Err(reason)) => bail!("not admitted: {reason}"),
        None => bail!("the scheduler sees no room: {:?}", numbers(world)?),
    }
}

/// Its machine opens its groups, and runs.
fn runs(world: &mut World, place: usize) -> anyhow::Result<()> {
    world.start_machine(place)?;
    let pod = world.pods.get(place).context("the pod is gone")?;
    ensure!(pod.vm.is_some(), "the machine of {} does not run", pod.spec.name);
    Ok(())
}

/// How many devices the plugin itself calls held.
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
    bail!("not within {PATIENCE:?}: {what}; it is {:?}", numbers(world)?)
}
