//! Checks after each step that the kubelet's numbers are right, and that the plugin's log shows nothing that must not happen.

use crate::plugin_log::{self, Event};
use crate::violation::{Violation, violated};
use crate::world::{RESOURCE, World};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the numbers may be wrong. A loaded host needs time. A broken plugin never gets there.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(10);
/// The longest time until the plugin has reacted to an event: settling, two polls of the kubelet, one list.
const REACTION: Duration = Duration::from_millis(1500);
/// The same if the plugin needs a probe, which it repeats at growing intervals (the core's `MAX_PROBE_INTERVAL`).
const PROBE_REACTION: Duration = Duration::from_millis(7000);
/// The most opens of a held group during one Allocate, which probes again and again until its deadline.
const PROBES_OF_HELD: u64 = 10;

/// The state of the checks on one node.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// How many checks were made.
    pub(crate) checks: u64,
    /// How many bytes of the plugin's log were read.
    read: u64,
    /// When the log was last read. What it says now happened after that.
    read_at: Option<Instant>,
    /// How often the health of each device may change.
    changes: BTreeMap<String, Budget>,
    /// How often each group may be opened.
    opens: BTreeMap<u32, Budget>,
    /// How often each group was released, of which the plugin may see a state in between.
    released: BTreeMap<u32, Budget>,
    /// How often each group had been opened at the last check.
    opened: BTreeMap<u32, u64>,
    /// The pod of each assigned device at the end of the last step.
    assigned: BTreeMap<String, String>,
}

/// How often something may happen. Each permission ends at its own time: an event of before is allowed, also if it is read later.
#[derive(Clone, Debug, Default)]
struct Budget(Vec<Instant>);

impl Budget {
    fn add(&mut self, times: u64, valid: Duration) {
        self.0.extend((0..times).map(|_| Instant::now() + valid));
        self.0.sort();
    }

    /// Uses one permission for an event that happened after `since`. Returns false if none is left that ends later.
    fn spend(&mut self, since: Option<Instant>) -> bool {
        self.0.retain(|until| since.is_none_or(|since| *until > since));
        let enough = !self.0.is_empty();
        if enough {
            self.0.remove(0);
        }
        enough
    }
}

impl Checker {
    /// Waits until the kubelet's numbers are right, then checks the plugin's log and the opens of groups.
    ///
    /// The numbers may be right for a moment and then wrong again while the plugin reacts to events. The log shows whether
    /// the plugin changes a device's health more often than events happen.
    ///
    /// # Errors
    /// A violation, or the run itself cannot go on.
    pub(crate) fn settle(&mut self, world: &mut World) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        while let Some(violation) = wrong_numbers(world)? {
            if Instant::now() > deadline {
                return Err(violation.into());
            }
            std::thread::sleep(PAUSE);
        }
        self.checks += 1;
        let since = self.read_at.replace(Instant::now());
        let events = plugin_log::read(&world.log, &mut self.read)?;
        self.add_budgets(world, &events, since);
        if let Err(error) = self.check_events(world, &events, since) {
            // If the numbers are wrong too, the violation says so: the scheduler counts with them.
            return Err(match wrong_numbers(world)? {
                Some(Violation { text, short, log }) if error.is::<Violation>() => {
                    Violation { text: format!("{error}; {text}"), short, log }.into()
                }
                _ => error,
            });
        }
        self.check_opens(world, since)
    }

    /// Adds what may happen because of the events since the last check.
    fn add_budgets(&mut self, world: &mut World, events: &[Event], since: Option<Instant>) {
        let changes = std::mem::take(&mut world.changes);
        for (group, times) in changes.may_change {
            for address in world.members(group) {
                self.changes.entry(address).or_default().add(times, REACTION);
            }
        }
        // The opens of a device node that was created again count from 0.
        self.opened.retain(|group, _| !changes.recreated_nodes.contains(group));
        for group in changes.freed_after_busy {
            self.opens.entry(group).or_default().add(1, PROBE_REACTION);
            for address in world.members(group) {
                self.changes.entry(address).or_default().add(1, PROBE_REACTION);
            }
        }
        for (group, times) in changes.released {
            self.released.entry(group).or_default().add(times, PROBE_REACTION);
        }
        for (group, times) in changes.may_be_opened {
            self.opens.entry(group).or_default().add(times, REACTION);
        }
        for event in events {
            match event {
                // Allocate opens the requested groups. The device is then assigned until that is known to have ended.
                Event::AllocateCalled { request } => {
                    for group in world.groups_named(request) {
                        self.opens.entry(group).or_default().add(1, REACTION);
                        for address in world.members(group) {
                            self.changes.entry(address).or_default().add(2, REACTION);
                        }
                    }
                }
                Event::AllocateRefused { error: text } | Event::Substituted { held: text } => {
                    for group in world.groups_named(text) {
                        world.seen_busy.insert(group);
                        self.opens.entry(group).or_default().add(PROBES_OF_HELD, REACTION);
                    }
                    // Every possible substitute may have been probed.
                    if world.substitutes() {
                        for group in world.groups() {
                            self.opens.entry(group).or_default().add(1, REACTION);
                        }
                    }
                }
                // A process may end before its group is released. If the plugin checks between the two, it sees another state,
                // and only an open detects the release.
                Event::GroupChanged { group } if self.released.entry(*group).or_default().spend(since) => {
                    self.opens.entry(*group).or_default().add(1, PROBE_REACTION);
                }
                Event::GroupChanged { .. } | Event::Dropped { .. } | Event::Health { .. } | Event::Other => {}
            }
        }
    }

    /// Checks that a free group was opened only where that is allowed: at a start of the plugin, by Allocate, and once after
    /// an EBUSY.
    fn check_opens(&mut self, world: &World, since: Option<Instant>) -> anyhow::Result<()> {
        for group in world.groups() {
            let opens = world.node.opens(group);
            let known = self.opened.entry(group).or_default();
            let before = std::mem::replace(known, opens.max(*known));
            for _ in before..opens {
                if !self.opens.entry(group).or_default().spend(since) {
                    violated!(
                        "group {group} was opened once more than events explain ({opens} times in all)"
                    );
                }
            }
            self.checks += 1;
        }
        Ok(())
    }

    /// Checks the log: no bound device leaves the list, no device that stays assigned becomes Unhealthy, and no device's
    /// health changes more often than events happen to its group.
    fn check_events(
        &mut self,
        world: &mut World,
        events: &[Event],
        since: Option<Instant>,
    ) -> anyhow::Result<()> {
        let assigned = world.pod_of_device();
        let rebound = std::mem::take(&mut world.rebound);
        let refused: BTreeSet<u32> = events
            .iter()
            .filter_map(|event| match event {
                Event::AllocateRefused { error } => Some(world.groups_named(error)),
                _ => None,
            })
            .flatten()
            .collect();
        for event in events {
            self.checks += 1;
            match event {
                Event::Dropped { device }
                    if world.bound.contains_key(device) && !rebound.contains(device) =>
                {
                    violated!("{device} left the list while it was bound");
                }
                Event::Health { device, old, new, reason } if old.as_ref() != Some(new) => {
                    let same = assigned.get(device).is_some_and(|pod| self.assigned.get(device) == Some(pod));
                    let contested = world.group_of(device).is_some_and(|group| refused.contains(&group));
                    if new == "Unhealthy" && same && !contested {
                        violated!(
                            "{device} is assigned to a pod all the time and became Unhealthy: {reason}"
                        );
                    }
                    if let Some(old) = old
                        && !self.changes.entry(device.clone()).or_default().spend(since)
                    {
                        violated!(
                            "{device} flaps: {old} -> {new} {reason}, although no event happened to its group"
                        );
                    }
                }
                _ => {}
            }
        }
        self.assigned = assigned;
        Ok(())
    }
}

/// Compares the kubelet's numbers with the node: allocatable - requested, and which devices are healthy. Without a plugin
/// there is nothing to compare.
fn wrong_numbers(world: &mut World) -> anyhow::Result<Option<Violation>> {
    if !world.plugin_runs() {
        return Ok(None);
    }
    let (_, allocatable) = world.manager()?.capacity(RESOURCE)?;
    let healthy = world.manager()?.healthy(RESOURCE)?;
    let (requested, free, undetectable) = (world.requested(), world.free(), world.undetectable());
    let surely_free: BTreeSet<&String> = free.difference(&undetectable).collect();
    let expected = requested + surely_free.len()..=requested + free.union(&undetectable).count();
    let right: BTreeSet<String> = world.assigned().into_keys().chain(free.iter().cloned()).collect();
    let wrong: Vec<&String> =
        healthy.symmetric_difference(&right).filter(|device| !undetectable.contains(*device)).collect();
    if expected.contains(&allocatable) && wrong.is_empty() {
        return Ok(None);
    }
    let text = format!(
        "allocatable {allocatable} - requested {requested} is not {}, the number of devices that a new VM could open; wrong health: {wrong:?}{world}",
        free.len()
    );
    Ok(Some(Violation { text, short: allocatable < requested + free.len(), log: String::new() }))
}
