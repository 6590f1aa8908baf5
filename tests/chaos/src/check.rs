//! What must be true after each step, and of all that the plugin said during it.

use crate::violation::{Violation, violated};
use crate::world::{RESOURCE, World};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

/// A busy machine may take its time; a promise that is not kept never comes true.
const SETTLED: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What was checked so far.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// How often something was compared with the truth.
    pub(crate) checks: u64,
    /// How much of the plugin's log was read.
    read: u64,
    /// How often the health of each device may change.
    changes: BTreeMap<String, Budget>,
    /// How often each group may be opened.
    opens: BTreeMap<u32, Budget>,
    /// How often each was, at the last check.
    opened: BTreeMap<u32, u64>,
    /// What pods had when the last step had settled, and which.
    owned: BTreeMap<String, String>,
}

/// The plugin takes so long at most for what follows from something: settling, two questions to the kubelet, a list.
const LATE: Duration = Duration::from_millis(1500);
/// And so long, if it has to find out by an open that is made less and less often (`MAX_PROBE_INTERVAL`).
const VERY_LATE: Duration = Duration::from_millis(7000);

/// How often something may happen, each until it is too late for that.
#[derive(Clone, Debug, Default)]
struct Budget(Vec<Instant>);

impl Budget {
    fn add(&mut self, times: u64, late: Duration) {
        self.0.extend((0..times).map(|_| Instant::now() + late));
        self.0.sort();
    }

    fn spend(&mut self) -> bool {
        self.0.retain(|until| *until > Instant::now());
        let enough = !self.0.is_empty();
        if enough {
            self.0.remove(0);
        }
        enough
    }
}

#[derive(Deserialize)]
struct Line {
    fields: Fields,
}

#[derive(Deserialize)]
struct Fields {
    message: String,
    #[serde(default)]
    device: String,
    #[serde(default)]
    old: String,
    #[serde(default)]
    new: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    error: String,
    /// The one that was swapped.
    #[serde(default)]
    held: String,
    #[serde(default)]
    request: String,
}

impl Checker {
    /// Waits until what the kubelet believes is what is true. It may be so for a moment and then not: the plugin is still
    /// taking in what has happened. Whether it changes its mind more often than that is told by its log.
    pub(crate) fn settle(&mut self, world: &mut World) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLED;
        while let Some(violation) = difference(world)? {
            if Instant::now() > deadline {
                return Err(violation.into());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.checks += 1;
        let lines = self.lines(world)?;
        self.allow(world, &lines);
        if let Err(error) = self.said(world, &lines) {
            // What that does to the numbers is what the scheduler sees.
            return Err(match difference(world)? {
                Some(Violation { text, short }) if error.is::<Violation>() => {
                    Violation { text: format!("{error}; {text}"), short }.into()
                }
                _ => error,
            });
        }
        self.opens(world)
    }

    /// What may have happened since the last check.
    fn allow(&mut self, world: &mut World, lines: &[Fields]) {
        let happened = std::mem::take(&mut world.happened);
        for (group, times) in happened.touched {
            for address in world.members(group) {
                self.changes.entry(address).or_default().add(times, LATE);
            }
        }
        // A node that is made anew counts from 0.
        self.opened.retain(|group, _| !happened.made.contains(group));
        for group in happened.doubted {
            self.opens.entry(group).or_default().add(1, VERY_LATE);
            for address in world.members(group) {
                self.changes.entry(address).or_default().add(1, VERY_LATE);
            }
        }
        for (group, times) in happened.opened {
            self.opens.entry(group).or_default().add(times, LATE);
        }
        for Fields { message, error, held, request, .. } in lines {
            match message.as_str() {
                // Each Allocate opens what it is asked for; what it gives is somebody's until that is known to be over.
                "asked to allocate" => {
                    for group in world.groups_named(request) {
                        self.opens.entry(group).or_default().add(1, LATE);
                        for address in world.members(group) {
                            self.changes.entry(address).or_default().add(2, LATE);
                        }
                    }
                }
                // And one that is held is asked for again until it answers, as are the substitutes of it.
                "refused" | "substituted: the kubelet's books name the held one" => {
                    for group in world.groups_named(error).union(&world.groups_named(held)).copied() {
                        world.proven.insert(group);
                        self.opens.entry(group).or_default().add(10, LATE);
                    }
                    if world.substitutes() {
                        for group in world.groups() {
                            self.opens.entry(group).or_default().add(1, LATE);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// No free group was opened but where it may be: by a start of the plugin, by Allocate, and once after an EBUSY.
    fn opens(&mut self, world: &World) -> anyhow::Result<()> {
        for group in world.groups() {
            let opens = world.node.opens(group);
            let known = self.opened.entry(group).or_default();
            let before = std::mem::replace(known, opens.max(*known));
            for _ in before..opens {
                if !self.opens.entry(group).or_default().spend() {
                    violated!(
                        "group {group} was opened once more than can be explained ({opens} times in all)"
                    );
                }
            }
            self.checks += 1;
        }
        Ok(())
    }

    /// What the plugin said: nothing leaves the list while it is bound, no device that a pod has all the time is Unhealthy,
    /// and nobody's health changes more often than something happened to its group.
    fn said(&mut self, world: &mut World, lines: &[Fields]) -> anyhow::Result<()> {
        let owned = world.pods_of_devices();
        let rebound = std::mem::take(&mut world.rebound);
        let refused: BTreeSet<u32> = lines
            .iter()
            .filter(|line| line.message == "refused")
            .flat_map(|line| world.groups_named(&line.error))
            .collect();
        for Fields { message, device, old, new, reason, .. } in lines {
            self.checks += 1;
            match message.as_str() {
                "no longer bound, dropped from the list"
                    if world.bound.contains_key(device) && !rebound.contains(device) =>
                {
                    violated!("{device} left the list while it was bound");
                }
                "health" if old != new => {
                    let same = owned.get(device).is_some_and(|pod| self.owned.get(device) == Some(pod));
                    let asked_for = world.group_of(device).is_some_and(|group| refused.contains(&group));
                    if new == "Unhealthy" && same && !asked_for {
                        violated!("{device} is a pod's all the time, and is Unhealthy: {reason}");
                    }
                    if old != "new" && !self.changes.entry(device.clone()).or_default().spend() {
                        violated!(
                            "{device} flaps: {old} -> {new} {reason}, though nothing has happened to it"
                        );
                    }
                }
                _ => {}
            }
        }
        self.owned = owned;
        Ok(())
    }

    fn lines(&mut self, world: &World) -> anyhow::Result<Vec<Fields>> {
        let mut file = File::open(&world.log)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += u64::try_from(whole)?;
        let lines = text.get(..whole).unwrap_or_default().lines();
        let mut found = Vec::new();
        for line in lines {
            let Ok(Line { fields }) = serde_json::from_str(line) else {
                violated!("the plugin said: {line}")
            };
            found.push(fields);
        }
        Ok(found)
    }
}

/// In what the kubelet's beliefs differ from the truth: allocatable - requested, and which devices that are. While there is
/// no plugin it believes nothing.
fn difference(world: &mut World) -> anyhow::Result<Option<Violation>> {
    if !world.plugin_runs() {
        return Ok(None);
    }
    let (_, allocatable) = world.manager()?.capacity(RESOURCE)?;
    let healthy = world.manager()?.healthy(RESOURCE)?;
    let (requested, free, unseen) = (world.requested(), world.free(), world.unseen());
    let open: BTreeSet<&String> = free.difference(&unseen).collect();
    let promised = requested + open.len()..=requested + free.union(&unseen).count();
    let right: BTreeSet<String> = world.owned().into_keys().chain(free.iter().cloned()).collect();
    let wrong: Vec<&String> =
        healthy.symmetric_difference(&right).filter(|device| !unseen.contains(*device)).collect();
    if promised.contains(&allocatable) && wrong.is_empty() {
        return Ok(None);
    }
    let text = format!(
        "allocatable {allocatable} - requested {requested} is not the {} that a new machine could open; wrong: {wrong:?}{world}",
        free.len()
    );
    Ok(Some(Violation { text, short: allocatable < requested + free.len() }))
}
