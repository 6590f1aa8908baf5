//! What is bound and held over time: repeated passes that look without opening, and open only where that cannot tell.

use crate::device::{Detail, Device, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::group::{Member, Viability};
use crate::id::{DeviceId, GroupId};
use crate::occupancy::{GroupNode, GroupState, Observation, Occupancy, UnknownReason};
use crate::peek::{EnableCount, Peek};
use crate::prober::{Done, ProbeResult, Prober, Request};
use crate::root::{Buffer, Root};
use crate::scan::{Bound, class_number};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Everything is read anew this often, for changes that no listing shows: a driver swapped, a NUMA node corrected, a
/// neighbour in the group bound to a host driver while no uevent reaches us.
const REFRESH: Duration = Duration::from_secs(30);

/// Settings of a [`Monitor`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Time between passes; also the shortest pause between two opens of one group.
    pub interval: Duration,
    /// Whether groups may be opened at all. Without, occupancy rests on `enable` alone.
    pub probe: bool,
    /// How long an open may take; later it counts as unanswered.
    pub probe_deadline: Duration,
    /// How much of each device's record is read.
    pub detail: Detail,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            probe: true,
            probe_deadline: Duration::from_secs(1),
            detail: Detail::Identity,
        }
    }
}

/// A device that is bound, or that the kernel is unbinding.
#[derive(Debug)]
pub struct Tracked {
    /// Its record; the driver is gone while it is being unbound.
    pub device: Device,
    /// The driver link is gone, but the group's node is there: the kernel's unbind waits for the holder
    /// (`vfio_unregister_group_dev`).
    pub unbinding: bool,
    enable: EnableCount,
    baseline: Option<u32>,
    /// The inode of its entry in /sys/class/vfio-dev: another one, and it has been bound anew meanwhile.
    entry: Option<u64>,
    seen: bool,
}

impl Tracked {
    /// Whether its enable count was above 0 while an open of ours had the group: left over from before the bind, so that
    /// a count at that height says nothing.
    #[must_use]
    pub fn enable_is_stale(&self) -> bool {
        self.baseline.is_some_and(|count| count > 0)
    }

    /// Whether one that is listed like this has been bound anew since it was seen. Of an entry that could not be listed, then or
    /// now, it is not known.
    fn is_rebound(&self, cdev: Option<u32>, entry: Option<u64>) -> bool {
        let another = self.entry.zip(entry).is_some_and(|(before, now)| before != now);
        self.unbinding || self.device.cdev != cdev || another
    }
}

/// An IOMMU group with at least one tracked device.
#[derive(Debug)]
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// All its members, tracked or not.
    pub members: Vec<Member>,
    /// Whether VFIO can use it.
    pub viability: Viability,
    /// Whether it is held.
    pub state: GroupState,
    /// The latest look without opening; none before the first.
    pub peek: Option<Peek>,
    node: GroupNode,
    asked: Option<Instant>,
}

/// What pods own, by device or, where only that is known, by group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assigned {
    /// Devices, in any order.
    pub devices: Vec<DeviceId>,
    /// Groups, in any order.
    pub groups: Vec<GroupId>,
}

/// What a pass found changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A device was bound to a VFIO driver (or seen for the first time).
    Bound(DeviceId),
    /// A device is no longer bound.
    Unbound(DeviceId),
    /// A group became held.
    Held(GroupId),
    /// A group became free.
    Freed(GroupId),
    /// Something else about a group: absent, unknown, its members, viability, a device being unbound.
    Changed(GroupId),
}

/// Answers that arrive from helper threads, and an eventfd that says so.
struct Answers {
    arrived: Mutex<Vec<ProbeResult>>,
    signal: OwnedFd,
}

/// Follows all bound devices below a root. Not `Sync`: one owner drives it; [`Prober`] may be shared.
pub struct Monitor {
    root: Arc<Root>,
    prober: Arc<Prober>,
    options: Options,
    devices: Vec<Tracked>,
    groups: Vec<Group>,
    assigned: Assigned,
    paused: bool,
    errors: Vec<Error>,
    answers: Arc<Answers>,
    buffer: Buffer,
    listed: Vec<Bound>,
    entries: Vec<(u32, u64)>,
    new_entries: Vec<(u32, u64)>,
    failed: Vec<Error>,
    nodes: Vec<GroupId>,
    /// N of each vfioN in /dev/vfio/devices, where these are the only nodes.
    cdevs: Vec<u32>,
    visible: bool,
    group_nodes: bool,
    /// /dev/vfio can be seen, and /dev/vfio/vfio is not in it.
    container_node_missing: bool,
    started: bool,
    refresh_at: Instant,
}

impl Monitor {
    /// A monitor that has seen nothing yet; the first [`Monitor::pass`] takes stock.
    ///
    /// # Errors
    /// No eventfd can be had.
    pub fn new(root: Arc<Root>, prober: Arc<Prober>, options: Options) -> Result<Self> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::system(errno, "eventfd"))?;
        Ok(Self {
            root,
            prober,
            options,
            devices: Vec::new(),
            groups: Vec::new(),
            assigned: Assigned::default(),
            paused: false,
            errors: Vec::new(),
            answers: Arc::new(Answers { arrived: Mutex::default(), signal }),
            buffer: Buffer::new(),
            listed: Vec::new(),
            entries: Vec::new(),
            new_entries: Vec::new(),
            failed: Vec::new(),
            nodes: Vec::new(),
            cdevs: Vec::new(),
            visible: false,
            group_nodes: true,
            container_node_missing: false,
            started: false,
            refresh_at: Instant::now() + REFRESH,
        })
    }

    /// Bound devices, by id.
    #[must_use]
    pub fn devices(&self) -> &[Tracked] {
        &self.devices
    }

    /// Their groups, by number.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// One group.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// What could not be read at the latest reading, each about one thing; it is tried again at every refresh.
    #[must_use]
    pub fn errors(&self) -> &[Error] {
        &self.errors
    }

    /// Whether /dev/vfio can be listed from here.
    #[must_use]
    pub fn vfio_visible(&self) -> bool {
        self.visible
    }

    /// Whether the kernel has nodes for groups, as far as their lack did not tell otherwise.
    #[must_use]
    pub fn has_group_nodes(&self) -> bool {
        self.group_nodes
    }

    /// Whether /dev/vfio can be seen and has no `vfio`, by which a group is used (CONFIG_VFIO_CONTAINER, or IOMMUFD in its place).
    #[must_use]
    pub fn container_node_missing(&self) -> bool {
        self.container_node_missing
    }

    /// The settings.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What is below.
    #[must_use]
    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Readable when answers to opens have arrived: call [`Monitor::collect`].
    #[must_use]
    pub fn results_fd(&self) -> BorrowedFd<'_> {
        self.answers.signal.as_fd()
    }

    /// Whether the opens that groups get at first sight have been answered, so that the picture is whole.
    #[must_use]
    pub fn initial_probes_done(&self) -> bool {
        let asked = |group: &Group| group.asked.is_some() && group.state.first_probe_is_due();
        self.started && !self.paused && !self.groups.iter().any(asked)
    }

    /// Reads records in other detail from the next pass on.
    pub fn set_detail(&mut self, detail: Detail, now: Instant) {
        if std::mem::replace(&mut self.options.detail, detail) != detail {
            self.refresh_at = now;
        }
    }

    /// What pods own: a group of which a device is owned, or the whole, is never opened, since its machine may be about to.
    pub fn set_assigned(&mut self, assigned: Assigned) {
        self.assigned = assigned;
    }

    /// While true nothing is opened; for the time until it is known what pods own. What is due then is opened later.
    pub fn pause_probes(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Whether opens are paused now.
    #[must_use]
    pub fn probes_paused(&self) -> bool {
        self.paused
    }

    fn is_assigned(&self, group: GroupId) -> bool {
        let device = |tracked: &Tracked| {
            tracked.device.group == Some(group) && self.assigned.devices.contains(&tracked.device.id)
        };
        self.assigned.groups.contains(&group)
            || !self.assigned.devices.is_empty() && self.devices.iter().any(device)
    }

    /// Takes in the answer to an open made elsewhere, as in an allocation.
    pub fn record_probe(
        &mut self,
        group: GroupId,
        answer: Occupancy,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        if let Some(group) = self.groups.iter_mut().find(|known| known.id == group) {
            let before = group.state.occupancy;
            group.state.record_probe(answer, group.peek, now);
            changes.extend(changed(group.id, before, group.state.occupancy));
        }
    }

    /// The group's holder is known to be gone: the next pass may open it at once.
    pub fn probe_now(&mut self, group: GroupId, now: Instant) {
        if let Some(group) = self.groups.iter_mut().find(|known| known.id == group) {
            group.state.probe_now(now);
        }
    }

    /// Something was bound, unbound, added or removed: everything is read anew at the next pass, and what was learned
    /// of `device`'s enable count is forgotten.
    pub fn invalidate(&mut self, device: Option<DeviceId>, now: Instant) {
        self.refresh_at = now;
        for tracked in self.devices.iter_mut().filter(|tracked| Some(tracked.device.id) == device) {
            tracked.baseline = None;
            tracked.enable.forget();
        }
    }

    /// One pass: what is bound, who looks held, and which groups to open. Never blocks on an open: answers come through
    /// [`Monitor::collect`]. When nothing changed it allocates nothing.
    ///
    /// # Errors
    /// The bound devices cannot be listed; then nothing is concluded, what was known stays.
    pub fn pass(&mut self, now: Instant, changes: &mut Vec<Change>) -> Result<()> {
        self.collect(now, changes);
        self.list_bound(now, changes)?;
        self.list_nodes();
        let mut questions = Vec::new();
        for index in 0..self.groups.len() {
            questions.extend(self.look(index, now, changes));
        }
        if questions.is_empty() {
            self.prober.ensure_progress();
        } else {
            // An open of an earlier question still hangs: its answer, or the deadline, comes first.
            let groups = &mut self.groups;
            self.prober.start_all(questions, |refused| {
                groups.iter_mut().filter(|group| group.id == refused).for_each(|group| group.asked = None);
            });
        }
        self.started = true;
        Ok(())
    }

    /// Takes in the answers that have arrived, and gives up on those that are late.
    pub fn collect(&mut self, now: Instant, changes: &mut Vec<Change>) {
        let arrived =
            std::mem::take(&mut *self.answers.arrived.lock().unwrap_or_else(PoisonError::into_inner));
        if !arrived.is_empty() {
            // Empties the eventfd; EAGAIN if the signal is still to come.
            let _ = rustix::io::read(&self.answers.signal, &mut [0_u8; 8]);
        }
        for answer in arrived {
            self.set_baselines(&answer);
            let Ok(index) = self.groups.binary_search_by_key(&answer.group, |group| group.id) else {
                continue;
            };
            // An answer that nobody waits for any more was late: the world may have moved on.
            if self.groups.get_mut(index).is_some_and(|group| group.asked.take().is_some()) {
                self.answered(index, answer.occupancy, now, changes);
            }
        }
        for index in 0..self.groups.len() {
            let deadline = self.options.probe_deadline;
            let late = |asked: &mut Instant| now.duration_since(*asked) > deadline;
            if self.groups.get_mut(index).is_some_and(|group| group.asked.take_if(late).is_some()) {
                self.answered(index, Occupancy::Unknown(UnknownReason::TimedOut), now, changes);
            }
        }
    }

    fn answered(&mut self, index: usize, answer: Occupancy, now: Instant, changes: &mut Vec<Change>) {
        let Some(id) = self.groups.get(index).map(|group| group.id) else { return };
        let assigned = self.is_assigned(id);
        let Some(group) = self.groups.get_mut(index) else { return };
        if let (Occupancy::Unknown(_), None) = (answer, group.peek) {
            // The open that was to spare the look says nothing.
            group.peek = Some(peek(&self.root, &mut self.devices, group.id).unwrap_or(Peek::Unavailable));
            let before = group.state.occupancy;
            let _ = group.state.observe(&Observation { now, peek: group.peek, node: group.node, assigned });
            changes.extend(changed(group.id, before, group.state.occupancy));
        }
        let before = group.state.occupancy;
        group.state.record_probe(answer, group.peek, now);
        changes.extend(changed(group.id, before, group.state.occupancy));
    }

    fn set_baselines(&mut self, answer: &ProbeResult) {
        for (device, count) in &answer.baselines {
            for tracked in self.devices.iter_mut().filter(|tracked| tracked.device.id == *device) {
                // It only falls: a count that rose since was somebody's.
                tracked.baseline = Some(tracked.baseline.map_or(*count, |known| known.min(*count)));
            }
        }
    }

    fn list_bound(&mut self, now: Instant, changes: &mut Vec<Change>) -> Result<()> {
        let refresh = now >= self.refresh_at;
        self.root.bound_entries(&mut self.buffer, &mut self.new_entries);
        let unchanged = !self.entries.is_empty() && self.entries == self.new_entries;
        std::mem::swap(&mut self.entries, &mut self.new_entries);
        if unchanged && !refresh && !self.devices.iter().any(|tracked| tracked.unbinding) {
            return Ok(());
        }
        self.listed.clear();
        self.failed.clear();
        let (listed, failed) = (&mut self.listed, &mut self.failed);
        let walked = self.root.bound(&mut self.buffer, |bound| match bound {
            Ok(bound) => listed.push(bound),
            Err(error) => failed.push(error),
        });
        if walked.is_err() || !self.failed.is_empty() {
            // Not understood yet, so not to be passed over the next time.
            self.entries.clear();
        }
        walked?;
        if refresh {
            self.refresh_at = now + REFRESH;
            self.errors.clear();
        }
        for index in 0..self.failed.len() {
            if let Some(&error) = self.failed.get(index) {
                self.remember(error);
            }
        }
        for tracked in &mut self.devices {
            tracked.seen = false;
        }
        self.devices.reserve(self.listed.len().saturating_sub(self.devices.len()));
        let mut regroup = refresh;
        for index in 0..self.listed.len() {
            let Some(&bound) = self.listed.get(index) else { break };
            regroup |= self.see(bound, refresh, changes);
        }
        regroup |= self.drop_unseen(changes);
        if regroup {
            self.regroup(now, changes);
        }
        Ok(())
    }

    /// Takes in one listed device; whether groups may have changed by it.
    fn see(&mut self, bound: Bound, refresh: bool, changes: &mut Vec<Change>) -> bool {
        let place = self.devices.binary_search_by_key(&bound.id, |tracked| tracked.device.id);
        let entry =
            self.entries.iter().find(|(number, _)| Some(*number) == bound.cdev).map(|(_, inode)| *inode);
        if let Ok(index) = place
            && let Some(tracked) = self.devices.get_mut(index)
        {
            tracked.seen = true;
            if !refresh && !tracked.is_rebound(bound.cdev, entry) {
                tracked.entry = entry.or(tracked.entry);
                return false;
            }
        } else if !refresh && self.errors.iter().any(|error| error.device == Some(bound.id)) {
            return false; // It failed at the last reading; tried again at the next refresh.
        }
        let device = match self.root.device(bound.id, self.options.detail) {
            Ok(device) => Device { cdev: bound.cdev, ..device },
            Err(error) => {
                // Gone between listing and reading is no error; neither does a known device vanish by a glitch.
                if error.kind == ErrorKind::Missing {
                    self.entries.clear();
                } else {
                    self.remember(error);
                }
                return false;
            }
        };
        match place {
            Ok(index) => {
                let Some(tracked) = self.devices.get_mut(index) else { return false };
                let rebound = tracked.is_rebound(device.cdev, entry);
                let differs = tracked.device != device;
                if rebound {
                    tracked.baseline = None;
                    tracked.enable.forget();
                    tracked.unbinding = false;
                    changes.extend([Change::Unbound(bound.id), Change::Bound(bound.id)]);
                } else if differs {
                    changes.extend(device.group.map(Change::Changed));
                }
                tracked.device = device;
                tracked.entry = entry.or(tracked.entry);
                rebound || differs
            }
            Err(index) => {
                let enable = EnableCount::default();
                self.devices.insert(
                    index,
                    Tracked { device, unbinding: false, enable, baseline: None, entry, seen: true },
                );
                changes.push(Change::Bound(bound.id));
                true
            }
        }
    }

    /// Lets go of devices that are no longer listed, but for those whose unbind waits for a holder.
    fn drop_unseen(&mut self, changes: &mut Vec<Change>) -> bool {
        let mut any = false;
        let root = &self.root;
        self.devices.retain_mut(|tracked| {
            if tracked.seen {
                return true;
            }
            if still_unbinding(root, tracked) {
                if !tracked.unbinding {
                    tracked.unbinding = true;
                    tracked.device.driver = None;
                    any = true;
                    changes.extend(tracked.device.group.map(Change::Changed));
                }
                return true;
            }
            any = true;
            changes.push(Change::Unbound(tracked.device.id));
            false
        });
        any
    }

    /// Reads the groups of all devices anew.
    fn regroup(&mut self, now: Instant, changes: &mut Vec<Change>) {
        let devices = &self.devices;
        self.groups.retain(|group| devices.iter().any(|tracked| tracked.device.group == Some(group.id)));
        for index in 0..self.devices.len() {
            let Some(id) = self.devices.get(index).and_then(|tracked| tracked.device.group) else { continue };
            if let Err(place) = self.groups.binary_search_by_key(&id, |group| group.id) {
                self.groups.insert(
                    place,
                    Group {
                        id,
                        members: Vec::new(),
                        viability: Viability::Viable,
                        state: GroupState::new(now, !self.started, self.options.interval),
                        peek: None,
                        node: GroupNode::Hidden,
                        asked: None,
                    },
                );
            }
        }
        let mut failed = Vec::new();
        let devices = &self.devices;
        for group in &mut self.groups {
            let mut members = Vec::with_capacity(group.members.len());
            // Of tracked devices the driver has been read just now.
            let known = |name: &[u8]| {
                let id = DeviceId::parse(name)?;
                let place = devices.binary_search_by_key(&id, |tracked| tracked.device.id).ok()?;
                devices.get(place)?.device.driver
            };
            let listed = self.root.members_with(group.id, &mut self.buffer, known, |member| match member {
                Ok(member) => members.push(member),
                Err(error) => failed.push(error),
            });
            failed.extend(listed.err());
            if members != group.members {
                let change = Change::Changed(group.id);
                if !group.members.is_empty() && !changes.contains(&change) {
                    changes.push(change);
                }
                group.viability = Viability::of(&members);
                group.members = members;
            }
        }
        for error in failed {
            self.remember(error);
        }
    }

    /// Which group nodes exist: one listing for all of them, and another only where one is missing because the kernel has none.
    fn list_nodes(&mut self) {
        self.nodes.clear();
        let nodes = &mut self.nodes;
        let mut container = false;
        let listed = self.root.list(format_args!("dev/vfio"), &mut self.buffer, |name| {
            container |= name == b"vfio";
            nodes.extend(GroupId::parse(name.strip_prefix(b"noiommu-").unwrap_or(name)));
        });
        self.visible = listed.is_ok();
        self.container_node_missing = listed.is_ok() && !container;
        for group in &mut self.groups {
            group.node = match listed {
                Ok(()) if self.nodes.contains(&group.id) => GroupNode::Present,
                Ok(()) => GroupNode::Missing,
                Err(_) => GroupNode::Hidden,
            };
        }
        let lacks = self.groups.iter().any(|group| group.node == GroupNode::Missing);
        self.group_nodes = !lacks || self.root.has_group_nodes();
        if !self.group_nodes {
            self.list_device_nodes();
        }
    }

    /// Which groups have the nodes of all their bound devices.
    fn list_device_nodes(&mut self) {
        self.cdevs.clear();
        let cdevs = &mut self.cdevs;
        let listed = self.root.list(format_args!("dev/vfio/devices"), &mut self.buffer, |name| {
            cdevs.extend(class_number(name));
        });
        for group in &mut self.groups {
            let mut members = self.devices.iter().filter(|tracked| tracked.device.group == Some(group.id));
            let has_node =
                |tracked: &Tracked| tracked.device.cdev.is_some_and(|number| self.cdevs.contains(&number));
            group.node = match listed {
                // Of one that is being unbound the node has gone already (`vfio_unregister_group_dev`).
                Ok(()) if members.all(|tracked| tracked.unbinding || has_node(tracked)) => {
                    GroupNode::DevicesOnly
                }
                // The folder comes with the first node in it.
                Ok(()) | Err(Errno::NOENT) => GroupNode::Missing,
                Err(_) => GroupNode::Hidden,
            };
        }
    }

    /// Looks at one group; a question where only an open can tell.
    fn look(&mut self, index: usize, now: Instant, changes: &mut Vec<Change>) -> Option<(Request, Done)> {
        let assigned = self.is_assigned(self.groups.get(index)?.id);
        let group = self.groups.get_mut(index)?;
        if self.paused && group.state.observation_can_wait(group.node, assigned) {
            return None;
        }
        let before = group.state.occupancy;
        if !self.options.probe || !group.state.observation_can_wait(group.node, assigned) {
            group.peek = match peek(&self.root, &mut self.devices, group.id) {
                Ok(peek) => Some(peek),
                // An unreadable count is no news; a device that goes is found by the listing.
                Err(_) => group.peek.or(Some(Peek::Unavailable)),
            };
        }
        let wanted = group.state.observe(&Observation { now, peek: group.peek, node: group.node, assigned });
        changes.extend(changed(group.id, before, group.state.occupancy));
        if !wanted || self.paused || group.asked.is_some() || !self.options.probe {
            return None;
        }
        group.asked = Some(now);
        let baseline_of =
            if group.peek == Some(Peek::LooksHeld) { in_group(&self.devices, group.id) } else { Vec::new() };
        let request = Request { group: group.id, baseline_of, deadline: now + self.options.probe_deadline };
        let answers = Arc::clone(&self.answers);
        let done = Box::new(move |answer: ProbeResult, more: bool| {
            answers.arrived.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
            if !more {
                // Fails only when 2^64 - 2 signals were not taken.
                let _ = rustix::io::write(&answers.signal, &1_u64.to_ne_bytes());
            }
        });
        Some((request, done))
    }

    fn remember(&mut self, error: Error) {
        // A tree full of garbage must not fill our memory with errors about it.
        const MOST: usize = 256;
        if self.errors.len() < MOST && !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("devices", &self.devices)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

fn changed(group: GroupId, before: Occupancy, after: Occupancy) -> Option<Change> {
    match (before, after) {
        (before, after) if before == after => None,
        (_, Occupancy::Held) => Some(Change::Held(group)),
        (Occupancy::Held, Occupancy::Free) => Some(Change::Freed(group)),
        _ => Some(Change::Changed(group)),
    }
}

fn in_group(devices: &[Tracked], group: GroupId) -> Vec<DeviceId> {
    devices
        .iter()
        .filter(|tracked| tracked.device.group == Some(group))
        .map(|tracked| tracked.device.id)
        .collect()
}

/// Looks at the counts of a group's tracked devices. A count of 0 is its own baseline; one above 0 becomes a baseline
/// only while an open of ours has the group.
fn peek(root: &Root, devices: &mut [Tracked], group: GroupId) -> Result<Peek> {
    let mut peek = Peek::Unavailable;
    // The count of a vendor's virtual function is its host driver's, which does not enable it for a machine.
    let counts = |tracked: &&mut Tracked| tracked.device.kind != Kind::VendorVf;
    for tracked in devices.iter_mut().filter(|tracked| tracked.device.group == Some(group)).filter(counts) {
        let count = match tracked.enable.read(root, tracked.device.id) {
            Ok(count) => count,
            Err(error) if error.kind == ErrorKind::Missing => continue,
            Err(error) => return Err(error),
        };
        if count > tracked.baseline.unwrap_or(0) {
            peek = Peek::LooksHeld;
        } else {
            tracked.baseline = Some(count);
            if peek == Peek::Unavailable {
                peek = Peek::LooksFree;
            }
        }
    }
    Ok(peek)
}

/// Whether the kernel's unbind of a device waits for its holder: the function is there without a driver, and so is the
/// group's node (or its entry in sysfs, where /dev cannot be seen), if the kernel has nodes for groups.
fn still_unbinding(root: &Root, tracked: &Tracked) -> bool {
    let (Some(address), Some(group)) = (tracked.device.id.pci(), tracked.device.group) else { return false };
    let mut link = [0; 512];
    let driver = root.link(format_args!("sys/bus/pci/devices/{address}/driver"), &mut link).map(|_| ());
    let present = root.stat(format_args!("sys/bus/pci/devices/{address}")).is_ok();
    let node = root.stat(format_args!("dev/vfio/{group}")).is_ok()
        || root.stat(format_args!("sys/class/vfio/{group}")).is_ok()
        || !root.has_group_nodes();
    let count = EnableCount::default().read(root, tracked.device.id);
    // `enable` falls only when the holder leaves: a neighbour that keeps the node does not keep this device.
    driver == Err(Errno::NOENT)
        && present
        && node
        && count.is_ok_and(|count| count > tracked.baseline.unwrap_or(0))
}
