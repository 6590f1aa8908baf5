//! Follows over time which devices are bound and which groups are held.
//!
//! A [`Monitor`] works in passes. A pass lists the bound devices and the device nodes, peeks at
//! each group, and probes a group only if a peek cannot decide: see
//! [`GroupState`](crate::occupancy::GroupState). Each idea has a module of its own:
//!
//! | module | what it follows |
//! | --- | --- |
//! | `bound` | the bound devices |
//! | `descriptors` | how many attributes are kept open |
//! | `groups` | the members of their groups, and which groups are assigned to pods |
//! | `nodes` | the device nodes |
//! | `baseline` | the enable counts without a holder |
//! | `probing` | the peeks, the probes and their results |
//! | `recheck` | changes of groups that no listing of the bound devices shows |
//! | `pass` | the context and the scratch buffers of one pass |

mod baseline;
mod bound;
mod descriptors;
mod groups;
mod nodes;
mod pass;
mod probing;
mod recheck;

use crate::device::Detail;
use crate::error::{Error, Result};
use crate::group::Member;
use crate::id::{DeviceId, GroupId, unique};
use crate::occupancy::Occupancy;
use crate::prober::{LONGEST, Prober};
use crate::root::Root;
use bound::BoundDevices;
use nodes::VisibleNodes;
use pass::{Pass, ReadErrors, Scratch};
use probing::Results;
use recheck::Recheck;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use bound::Tracked;
pub(crate) use descriptors::pidfd_limit;
pub use descriptors::presence_reader_limit;
pub use groups::{Assigned, Group};
pub use pass::MAX_ERRORS;

/// Settings of a [`Monitor`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Time between two passes. Also the shortest time between two probes of one group.
    pub interval: Duration,
    /// Whether groups may be probed. If not, the occupancy rests on `enable` and on known holders.
    ///
    /// A probe opens the group's device node, and a VM that starts in that moment fails. So this is
    /// false by default, as in every language.
    pub probe: bool,
    /// Longest duration of a probe. After that it counts as timed out.
    pub probe_deadline: Duration,
    /// How much of each device's record is read.
    pub detail: Detail,
}

/// One pass a second, no probes (with a deadline of one second if they are allowed), records in
/// [`Detail::Identity`].
impl Default for Options {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            probe: false,
            probe_deadline: Duration::from_secs(1),
            detail: Detail::Identity,
        }
    }
}

/// A change that a pass found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A device was bound to a VFIO driver, or was discovered.
    Bound(DeviceId),
    /// A device is no longer bound.
    Unbound(DeviceId),
    /// A group became held.
    Held(GroupId),
    /// A group became free, or was found free.
    Freed(GroupId),
    /// Something else about a group changed: it became absent or unknown, or was found so, its
    /// members or its viability changed, or a device of it is being unbound.
    Changed(GroupId),
}

/// Follows all bound devices below a root.
///
/// One thread drives a monitor. Other threads can share its [`Prober`]. No method blocks on the
/// open of a device node.
pub struct Monitor {
    root: Root,
    prober: Arc<Prober>,
    options: Options,
    bound: BoundDevices,
    /// Sorted by number.
    groups: Vec<Group>,
    recheck: Recheck,
    nodes: VisibleNodes,
    assigned: Assigned,
    /// Sorted. None for all groups.
    watched: Option<Vec<GroupId>>,
    results: Arc<Results>,
    paused: bool,
    /// /dev/vfio is as it was in the previous pass.
    nodes_unchanged: bool,
    /// No function was added to a group since the previous pass.
    members_unchanged: bool,
    errors: ReadErrors,
    scratch: Scratch,
    started: bool,
}

impl Monitor {
    /// Creates a monitor that knows nothing yet. The first [`Monitor::pass`] discovers the devices.
    ///
    /// # Errors
    /// The kernel creates no eventfd.
    pub fn new(root: Root, prober: Arc<Prober>, options: Options) -> Result<Self> {
        let Options { interval, probe_deadline, .. } = options;
        let (interval, probe_deadline) = (interval.min(LONGEST), probe_deadline.min(LONGEST));
        let options = Options { interval, probe_deadline, ..options };
        Ok(Self {
            root,
            prober,
            options,
            bound: BoundDevices::new(Instant::now()),
            groups: Vec::new(),
            recheck: Recheck::default(),
            nodes: VisibleNodes::new(),
            assigned: Assigned::default(),
            watched: None,
            results: Arc::new(Results::new()?),
            paused: false,
            nodes_unchanged: false,
            members_unchanged: false,
            errors: ReadErrors::default(),
            scratch: Scratch::default(),
            started: false,
        })
    }

    /// Returns the bound devices, sorted by id.
    #[must_use]
    pub fn devices(&self) -> &[Tracked] {
        &self.bound.devices
    }

    /// Returns the groups of the bound devices, sorted by number.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns one group. None if it has no bound device.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        let place = self.groups.binary_search_by_key(&id, |group| group.id).ok()?;
        self.groups.get(place)
    }

    fn group_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        let place = self.groups.binary_search_by_key(&id, |group| group.id).ok()?;
        self.groups.get_mut(place)
    }

    /// Returns what could not be read at the latest reading, at most 256 errors. Each is about one
    /// place, and each refresh (every 30 seconds) tries to read it again.
    #[must_use]
    pub fn errors(&self) -> &[Error] {
        self.errors.as_slice()
    }

    /// Returns whether /dev/vfio can be listed.
    #[must_use]
    pub fn vfio_visible(&self) -> bool {
        self.nodes.visible
    }

    /// Returns whether the kernel has device nodes for groups. True until a missing node shows
    /// otherwise.
    #[must_use]
    pub fn has_group_nodes(&self) -> bool {
        self.nodes.for_groups
    }

    /// Returns whether /dev/vfio can be listed and does not contain /dev/vfio/vfio. A group cannot
    /// be used without that node (CONFIG_VFIO_CONTAINER, or IOMMUFD instead of it).
    #[must_use]
    pub fn container_node_missing(&self) -> bool {
        self.nodes.container_missing
    }

    /// Returns the settings.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Returns the root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Returns a descriptor that is readable when probe results have arrived. Poll it and call
    /// [`Monitor::collect`]; do not read it.
    #[must_use]
    pub fn results_fd(&self) -> BorrowedFd<'_> {
        self.results.fd()
    }

    /// Returns whether the first pass is over and each probe at discovery has its result. Returns
    /// false while probes are paused.
    #[must_use]
    pub fn initial_probes_done(&self) -> bool {
        let outstanding = |group: &Group| group.probe_since.is_some() && group.state.first_probe_is_due();
        self.started && !self.paused && !self.groups.iter().any(outstanding)
    }

    /// Returns whether the first pass is over and the changes contain every watched group: as held,
    /// free or changed. A group whose first probe is outstanding is not among them yet. Returns false
    /// while probes are paused and a group waits for its first one.
    #[must_use]
    pub fn is_discovered(&self) -> bool {
        self.started && self.groups.iter().all(|group| group.reported || !group.watched)
    }

    /// Sets how much of each record is read. If that changes, the next pass after `now` reads all
    /// records again.
    pub fn set_detail(&mut self, detail: Detail, now: Instant) {
        if std::mem::replace(&mut self.options.detail, detail) != detail {
            self.bound.read_all(now);
        }
    }

    /// Sets what is assigned to pods. A group is never probed while it, or one of its devices, is
    /// assigned: the pod's VM may be about to open it.
    pub fn set_assigned(&mut self, assigned: Assigned) {
        let Assigned { devices, groups } = assigned;
        self.assigned = Assigned { devices: unique(devices), groups: unique(groups) };
    }

    /// Sets the groups that the caller watches, in any order. None, the default, means all.
    ///
    /// The devices and the members of the other groups are followed too, but these groups are
    /// neither peeked at nor probed, and no descriptor is kept for them. Their occupancy stays
    /// [`UnknownReason::NotProbed`](crate::UnknownReason::NotProbed), or what it was when they were
    /// watched last.
    pub fn set_watched(&mut self, groups: Option<Vec<GroupId>>) {
        self.watched = groups.map(unique);
        watch_groups(&mut self.groups, &mut self.bound, self.watched.as_deref());
    }

    /// Returns the groups that the caller watches and that have a bound device.
    pub(crate) fn watched_groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.iter().filter(|group| group.watched).map(|group| group.id)
    }

    /// Returns the members of these groups, each with N of its `vfioN` entry if it is bound and has
    /// one.
    pub(crate) fn watched_members(&self) -> Vec<(GroupId, DeviceId, Option<u32>)> {
        let mut members = Vec::with_capacity(self.groups.len());
        for group in self.groups.iter().filter(|group| group.watched) {
            for id in group.members.iter().filter_map(Member::id) {
                let mut tracked = self.bound.devices_of(group.id).map(|tracked| &tracked.device);
                let cdev = tracked.find(|device| device.id == id).and_then(|device| device.cdev);
                members.push((group.id, id, cdev));
            }
        }
        members
    }

    /// Returns the number of `enable` attributes that are kept open, and the largest number that
    /// may be: three eighths of the soft RLIMIT_NOFILE. The attributes of further devices are
    /// opened and closed in each pass.
    #[must_use]
    pub fn kept_descriptors(&self) -> (usize, usize) {
        self.bound.descriptors()
    }

    /// Pauses all probes while `paused` is true, for example until the assignments are known.
    /// Probes that are due in that time are made later.
    pub fn pause_probes(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Returns whether probes are paused.
    #[must_use]
    pub fn probes_paused(&self) -> bool {
        self.paused
    }

    /// Records the result of a probe that the caller has made, for example for an allocation. Does
    /// nothing for an unknown group.
    pub fn record_probe(
        &mut self,
        group: GroupId,
        result: Occupancy,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        if let Some(group) = self.group_mut(group) {
            probing::record(group, result, now, changes);
        }
    }

    /// Lets the next pass probe a group at once, for example because its holder has exited.
    pub fn probe_now(&mut self, group: GroupId, now: Instant) {
        if let Some(group) = self.group_mut(group) {
            group.state.probe_now(now);
        }
    }

    /// Makes the next pass read everything again, because a device was bound, unbound, added or
    /// removed. Forgets the baseline of `device`, if one is named.
    pub fn invalidate(&mut self, device: Option<DeviceId>, now: Instant) {
        self.bound.read_all(now);
        for tracked in self.bound.devices.iter_mut().filter(|tracked| Some(tracked.device.id) == device) {
            tracked.enable.forget();
        }
    }

    /// Saves the next pass the listing of /dev/vfio: inotify has reported no change since the
    /// previous one. A refresh lists it nevertheless.
    pub(crate) fn expect_nodes_unchanged(&mut self) {
        self.nodes_unchanged = self.started;
    }

    /// Saves the next pass the lists of groups: the kernel has reported no added function since the
    /// previous one. A refresh lists all groups nevertheless.
    pub(crate) fn expect_members_unchanged(&mut self) {
        self.members_unchanged = true;
    }

    /// Returns whether the next pass is a refresh.
    pub(crate) fn refresh_is_due(&self, now: Instant) -> bool {
        self.bound.refresh_is_due(now)
    }

    /// Makes one pass: lists the bound devices, peeks at their groups, and starts the probes that
    /// are wanted.
    ///
    /// Appends what changed to `changes`. Does not wait for probes; their results come through
    /// [`Monitor::collect`], which each pass calls first. A pass without a change allocates
    /// nothing.
    ///
    /// # Errors
    /// The bound devices cannot be listed. Then everything stays as it was.
    pub fn pass(&mut self, now: Instant, changes: &mut Vec<Change>) -> Result<()> {
        self.collect(now, changes);
        // A refresh also finds another file system that was mounted over /dev/vfio.
        let refresh = self.refresh_is_due(now);
        let mut list_nodes = !std::mem::take(&mut self.nodes_unchanged) || refresh;
        let list_groups = !std::mem::take(&mut self.members_unchanged);
        let Self { root, bound, groups, recheck, nodes, options, watched, scratch, errors, .. } = self;
        let pass = &mut Pass { root, now, scratch, errors, changes: &mut *changes };
        if bound.update(options.detail, pass)? {
            groups::regroup(groups, &bound.devices, !self.started, options.interval, pass);
            watch_groups(groups, bound, watched.as_deref());
            list_nodes = true;
        } else {
            recheck.peers(groups, &bound.devices, pass);
            if list_groups {
                recheck.members(groups, &bound.devices, pass);
            }
        }
        // A kernel without group nodes has its nodes in a directory that is not watched.
        if list_nodes || !nodes.for_groups {
            nodes.update(groups, &bound.devices, pass);
        }
        self.observe_groups(now, changes);
        self.started = true;
        Ok(())
    }
}

/// Marks the watched groups and closes the attributes of the others. `watched` is sorted. None means
/// all.
fn watch_groups(groups: &mut [Group], bound: &mut BoundDevices, watched: Option<&[GroupId]>) {
    let is_watched = |group: GroupId| watched.is_none_or(|watched| watched.binary_search(&group).is_ok());
    groups.iter_mut().for_each(|group| group.watched = is_watched(group.id));
    bound.index(is_watched);
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("devices", &self.bound.devices)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}
