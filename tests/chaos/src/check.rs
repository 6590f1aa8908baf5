//! What must be true after each step, and of all that the plugin said during it.

use crate::violation::{Violation, violated};
use crate::world::{RESOURCE, World};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
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
    /// What is left of the changes that a device's health may make.
    changes: BTreeMap<String, u32>,
    /// What pods had when the last step had settled.
    owned: BTreeSet<String>,
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
}

impl Checker {
    /// Waits until what the kubelet believes is what is true. It may be so for a moment and then not: the plugin is still
    /// taking in what has happened. Whether it changes its mind more often than that is told by its log.
    pub(crate) fn settle(&mut self, world: &mut World) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLED;
        while let Some(difference) = difference(world)? {
            if Instant::now() > deadline {
                violated!("{difference}");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.checks += 1;
        if let Err(error) = self.said(world) {
            // What that does to the numbers is what the scheduler sees.
            return Err(match difference(world)? {
                Some(difference) if error.is::<Violation>() => {
                    Violation(format!("{error}; {difference}")).into()
                }
                _ => error,
            });
        }
        self.opens(world)
    }

    /// No free group was opened but where it may be.
    fn opens(&mut self, world: &World) -> anyhow::Result<()> {
        for (&group, &allowed) in &world.opens_allowed {
            let opens = world.node.opens(group);
            if opens > allowed {
                violated!("group {group} was opened {opens} times, where {allowed} can be explained");
            }
            self.checks += 1;
        }
        Ok(())
    }

    /// Reads on in the plugin's log: nothing leaves the list while it is bound, no device that a pod owns is ever Unhealthy,
    /// and nobody's health changes more often than something happened to its group.
    fn said(&mut self, world: &mut World) -> anyhow::Result<()> {
        for (group, more) in std::mem::take(&mut world.changes_allowed) {
            for address in world
                .bound
                .iter()
                .chain(&world.unbound)
                .filter(|(_, of)| **of == group)
                .map(|(address, _)| address)
            {
                let left = self.changes.entry(address.clone()).or_default();
                *left = (*left + more).min(4);
            }
        }
        let owned: BTreeSet<String> = world.owned().into_keys().collect();
        let rebound = std::mem::take(&mut world.rebound);
        for Fields { message, device, old, new, reason, error } in self.lines(world)? {
            self.checks += 1;
            match message.as_str() {
                // The refused one is Unhealthy until an open of it succeeds, whatever it was before.
                "refused" => {
                    let device = error.split([' ', ':', ',']).next().unwrap_or_default();
                    let device = world
                        .bound
                        .keys()
                        .find(|address| address.starts_with(device) && error.starts_with(*address));
                    if let Some(device) = device {
                        *self.changes.entry(device.clone()).or_default() += 2;
                    }
                }
                "no longer bound, dropped from the list"
                    if world.bound.contains_key(&device) && !rebound.contains(&device) =>
                {
                    violated!("{device} left the list while it was bound");
                }
                "health" if old != new && old != "new" => {
                    let left = self.changes.entry(device.clone()).or_default();
                    let Some(less) = left.checked_sub(1) else {
                        violated!(
                            "{device} flaps: {old} -> {new} {reason}, though nothing has happened to it"
                        );
                    };
                    *left = less;
                    if new == "Unhealthy"
                        && self.owned.contains(&device)
                        && owned.contains(&device)
                        && less == 0
                    {
                        violated!("{device} is a pod's all the time, and is Unhealthy: {reason}");
                    }
                }
                "health" if new == "Unhealthy" && self.owned.contains(&device) && owned.contains(&device) => {
                    violated!("{device} is a pod's, and is Unhealthy in a new plugin's first list: {reason}");
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

/// In what the kubelet's beliefs differ from the truth: allocatable - requested, and which devices that are.
fn difference(world: &mut World) -> anyhow::Result<Option<String>> {
    let (capacity, allocatable) = world.manager()?.capacity(RESOURCE)?;
    let healthy = world.manager()?.healthy(RESOURCE)?;
    if !world.promises_kept() && capacity > 0 {
        return Ok(None);
    }
    let (requested, free, unseen) = (world.requested(), world.free(), world.unseen());
    let promised = requested + free.len()..=requested + free.len() + unseen.len();
    let right: BTreeSet<String> = world.owned().into_keys().chain(free.iter().cloned()).collect();
    let wrong: Vec<&String> =
        healthy.symmetric_difference(&right).filter(|device| !unseen.contains(*device)).collect();
    if promised.contains(&allocatable) && wrong.is_empty() {
        return Ok(None);
    }
    let mut text = format!(
        "allocatable {allocatable} - requested {requested} is not the {} that a new machine could open: {}; wrong: {wrong:?}",
        free.len(),
        free.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
    );
    for pod in &world.pods {
        let _ = write!(
            text,
            "\n  {} has {:?}{}",
            pod.spec.name,
            pod.given,
            if pod.vm.is_some() { ", runs" } else { "" }
        );
    }
    for foreign in &world.foreign {
        let hung = if foreign.hung { "what is left of" } else { "another's" };
        let _ = write!(text, "\n  {hung} pid {} holds {:?}", foreign.vm.pid(), foreign.groups);
    }
    let _ = write!(text, "\n  unbound: {:?}, capacity {capacity}", world.unbound);
    Ok(Some(text))
}
