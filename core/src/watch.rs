//! Everything that can make news, behind one descriptor to poll: kernel events, /dev/vfio, holders' exits, and time.

use crate::error::{Error, Result};
use crate::holders::{Holder, ScanCoverage};
use crate::id::{DeviceId, GroupId};
use crate::monitor::{Change, Monitor};
use crate::root::Root;
use crate::uevent;
use rustix::event::epoll;
use rustix::fs::inotify;
use rustix::io::{Errno, read};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::VecDeque;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What a [`Watch`] tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A device was bound to a VFIO driver, or is seen for the first time.
    Bound(DeviceId),
    /// A device is no longer bound.
    Unbound(DeviceId),
    /// A group became held.
    Held(GroupId),
    /// A group became free.
    Freed(GroupId),
    /// Something else about a group changed.
    Changed(GroupId),
    /// Kernel events were lost; everything was read anew.
    Rescan,
}

impl Event {
    /// `bound`, `unbound`, `held`, `freed`, `changed` or `rescan`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bound(_) => "bound",
            Self::Unbound(_) => "unbound",
            Self::Held(_) => "held",
            Self::Freed(_) => "freed",
            Self::Changed(_) => "changed",
            Self::Rescan => "rescan",
        }
    }

    /// The device that was bound or unbound.
    #[must_use]
    pub fn device(self) -> Option<DeviceId> {
        match self {
            Self::Bound(device) | Self::Unbound(device) => Some(device),
            _ => None,
        }
    }

    /// The group that was held, freed or changed.
    #[must_use]
    pub fn group(self) -> Option<GroupId> {
        match self {
            Self::Held(group) | Self::Freed(group) | Self::Changed(group) => Some(group),
            _ => None,
        }
    }
}

/// Settings of a [`Watch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Listen to the kernel's uevents. They only make news sooner: a pod with `hostUsers: false` gets none.
    pub uevents: bool,
    /// Look for the holders of groups that become held, and for their exits.
    pub holders: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { uevents: true, holders: true }
    }
}

/// What is known of the holders of one held group.
struct Held {
    group: GroupId,
    holders: Vec<Holder>,
    coverage: ScanCoverage,
    again: Option<(Instant, Duration)>,
    exits: Vec<OwnedFd>,
}

/// Sources behind the one descriptor; numbers are epoll data.
const UEVENTS: u64 = 1;
const NODES: u64 = 2;
const TICK: u64 = 3;
const ANSWERS: u64 = 4;
/// Plus the group's number.
const EXITS: u64 = 1 << 32;

/// Pause before holders that were not found are looked for again; doubles up to [`MAX_PROBE_INTERVAL`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// A holder that nobody can see exit, in another pid namespace say, is looked for again this often.
const CONFIRM: Duration = Duration::from_secs(30);

/// A [`Monitor`] and its clock. One owner drives it; dropping it closes everything.
pub struct Watch {
    monitor: Monitor,
    options: Options,
    epoll: OwnedFd,
    uevents: Option<OwnedFd>,
    nodes: Option<OwnedFd>,
    tick: OwnedFd,
    held: Vec<Held>,
    events: VecDeque<Event>,
    changes: Vec<Change>,
    next_pass: Instant,
    failure: Option<Error>,
    untold: Option<Error>,
    own_processes: bool,
    /// Groups whose holder has exited and that were still held then, with the next pause before another look.
    exited: Vec<(GroupId, Duration)>,
    /// A node came or went just now, in the midst of a bind or unbind.
    half_bound: bool,
}

/// A group whose holder has exited is looked at again after 10, 20, 40, ... ms, as long as this is not exceeded: with the
/// exit the group can be opened, unless another process shares the descriptor.
const LAST_FOLLOW_UP: Duration = Duration::from_millis(160);
/// The kernel makes a group's node before the device's entry in sysfs (`__vfio_register_dev`), so that a pass between the
/// two finds nothing; another follows after this.
const BIND: Duration = Duration::from_millis(10);

impl Watch {
    /// Begins to watch; the first [`Watch::next`] takes stock. Sources that cannot be had (uevents in a user namespace,
    /// inotify without /dev/vfio) are done without: the tick finds everything, only later.
    ///
    /// # Errors
    /// Neither an epoll nor a timer can be had.
    pub fn new(monitor: Monitor, options: Options) -> Result<Self> {
        let system = |errno| Error::system(errno, "watch");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?;
        let add = |fd: BorrowedFd<'_>, source| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(source), epoll::EventFlags::IN)
        };
        let tick = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(system)?;
        let interval = timespec(monitor.options().interval);
        timerfd_settime(
            &tick,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: interval, it_value: interval },
        )
        .map_err(system)?;
        add(tick.as_fd(), TICK).map_err(system)?;
        add(monitor.results_fd(), ANSWERS).map_err(system)?;
        let uevents = if options.uevents { uevent_socket().ok() } else { None };
        let uevents = uevents.filter(|socket| add(socket.as_fd(), UEVENTS).is_ok());
        let own_processes = shows_ourselves(monitor.root());
        let next_pass = Instant::now();
        let mut watch = Self {
            monitor,
            options,
            epoll,
            uevents,
            nodes: None,
            tick,
            held: Vec::new(),
            events: VecDeque::new(),
            changes: Vec::new(),
            next_pass,
            failure: None,
            untold: None,
            own_processes,
            exited: Vec::new(),
            half_bound: false,
        };
        watch.watch_nodes();
        Ok(watch)
    }

    /// Readable when [`Watch::next`] may have news. Poll it, do not read it.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The next event, or none for now. Never waits; it may do a pass, some 20 system calls with 8 devices, and where a
    /// group became held a look at all processes.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's None is an end, this one's is `not now`"
    )]
    pub fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        self.take_signals();
        let now = Instant::now();
        if now >= self.next_pass {
            self.next_pass = now + self.monitor.options().interval;
            self.failure = self.monitor.pass(now, &mut self.changes).err();
            self.untold = self.failure;
            self.watch_nodes();
            self.follow_up(now);
        }
        if self.options.holders {
            self.look_for_holders(now);
        }
        for index in 0..self.changes.len() {
            let Some(&change) = self.changes.get(index) else { break };
            self.events.push_back(match change {
                Change::Bound(device) => Event::Bound(device),
                Change::Unbound(device) => Event::Unbound(device),
                Change::Held(group) => Event::Held(group),
                Change::Freed(group) => Event::Freed(group),
                Change::Changed(group) => Event::Changed(group),
            });
        }
        self.changes.clear();
        self.events.pop_front()
    }

    /// What the passes have found.
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// For [`Monitor::set_assigned`]; passes are driven by [`Watch::next`].
    pub fn monitor_mut(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    /// Takes in the answer to an open made elsewhere; the events follow from [`Watch::next`].
    pub fn record_probe(&mut self, group: GroupId, answer: crate::Occupancy) {
        self.monitor.record_probe(group, answer, Instant::now(), &mut self.changes);
    }

    /// The known holders of a held group; empty says nothing without [`Watch::coverage`].
    #[must_use]
    pub fn holders(&self, group: GroupId) -> &[Holder] {
        self.held.iter().find(|held| held.group == group).map_or(&[], |held| &held.holders)
    }

    /// How far the last look for the group's holders reached; none if nobody coverage.
    #[must_use]
    pub fn coverage(&self, group: GroupId) -> Option<ScanCoverage> {
        self.held.iter().find(|held| held.group == group).map(|held| held.coverage)
    }

    /// Why the latest pass could not list the bound devices, if it could not.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.failure
    }

    /// The same, once for each pass that failed: for those who are told of events and failures in one stream.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.untold.take()
    }

    /// The next [`Watch::next`] does a pass.
    pub fn pass_now(&mut self) {
        self.next_pass = Instant::now();
    }

    fn take_signals(&mut self) {
        let mut space = [MaybeUninit::uninit(); 32];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut space, Some(&zero)) else { return };
        let now = Instant::now();
        for event in ready {
            match event.data.u64() {
                UEVENTS => self.take_uevents(now),
                NODES => {
                    if let Some(nodes) = &self.nodes {
                        drain(nodes);
                    }
                    self.half_bound = true;
                    self.next_pass = now;
                }
                TICK => {
                    drain(&self.tick);
                    self.next_pass = now;
                }
                ANSWERS => self.monitor.collect(now, &mut self.changes),
                exits => {
                    let group = GroupId(u32::try_from(exits & 0xffff_ffff).unwrap_or_default());
                    // A readable pidfd stays readable: forget the group's holders, look again if it is still held.
                    self.held.retain(|held| held.group != group);
                    self.exited.retain(|(exited, _)| *exited != group);
                    self.exited.push((group, Duration::from_millis(10)));
                    self.monitor.probe_now(group, now);
                    self.next_pass = now;
                }
            }
        }
    }

    /// Looks again soon: at groups that are still held after their holder's exit, and after a node came or went.
    fn follow_up(&mut self, now: Instant) {
        let monitor = &mut self.monitor;
        self.exited.retain_mut(|(group, pause)| {
            *pause *= 2;
            let held = monitor.group(*group).is_some_and(|group| group.state.occupancy.is_held());
            if held {
                monitor.probe_now(*group, now);
            }
            held && *pause <= LAST_FOLLOW_UP
        });
        let bind = std::mem::take(&mut self.half_bound).then_some(BIND);
        if let Some(pause) = self.exited.iter().map(|(_, pause)| *pause / 2).chain(bind).min() {
            let interval = self.monitor.options().interval;
            let times =
                Itimerspec { it_interval: timespec(interval), it_value: timespec(pause.min(interval)) };
            // If it fails, the regular tick comes all the same.
            let _ = timerfd_settime(&self.tick, TimerfdTimerFlags::empty(), &times);
        }
    }

    fn take_uevents(&mut self, now: Instant) {
        let Some(socket) = &self.uevents else { return };
        // The kernel builds a message in 2 KiB of environment plus its path (UEVENT_BUFFER_SIZE).
        let mut message = [0_u8; 8192];
        // A storm of events must not keep us from everything else.
        for _ in 0..256 {
            match recvfrom(socket, &mut message[..], RecvFlags::DONTWAIT) {
                Ok((length, _, sender)) => {
                    let kernel = sender.is_some_and(|sender| {
                        SocketAddrNetlink::try_from(sender)
                            .is_ok_and(|sender| sender.pid() == 0 && sender.groups() == 1)
                    });
                    let event = message.get(..length).filter(|_| kernel).and_then(uevent::parse);
                    if let Some(event) = event {
                        self.monitor.invalidate(event.device, now);
                        self.next_pass = now;
                    }
                }
                Err(Errno::NOBUFS) => {
                    self.monitor.invalidate(None, now);
                    self.next_pass = now;
                    self.events.push_back(Event::Rescan);
                }
                Err(_) => return,
            }
        }
    }

    /// devtmpfs makes and removes nodes through the VFS, so inotify sees them (sysfs folders raise nothing). The folder
    /// itself may appear late, with the first device ever bound.
    fn watch_nodes(&mut self) {
        if !self.monitor.vfio_visible() && !self.monitor.groups().is_empty() {
            // The folder went, and with it the watch of it.
            self.nodes = None;
            return;
        }
        if self.nodes.is_some() {
            return;
        }
        self.nodes = watch_folder(self.monitor.root()).ok().filter(|nodes| {
            epoll::add(&self.epoll, nodes, epoll::EventData::new_u64(NODES), epoll::EventFlags::IN).is_ok()
        });
    }

    fn look_for_holders(&mut self, now: Instant) {
        let monitor = &self.monitor;
        self.held
            .retain(|held| monitor.group(held.group).is_some_and(|group| group.state.occupancy.is_held()));
        let due: Vec<GroupId> = monitor
            .groups()
            .iter()
            .filter(|group| group.state.occupancy.is_held())
            .map(|group| group.id)
            .filter(|id| {
                let known = self.held.iter().find(|held| held.group == *id);
                known.is_none_or(|held| held.again.is_some_and(|(when, _)| now >= when))
            })
            .collect();
        if due.is_empty() {
            return;
        }
        let mut found = Vec::new();
        let coverage = monitor.root().holders(&due, &mut |holder| found.push(holder)).unwrap_or_default();
        for group in due {
            let holders: Vec<Holder> = found.iter().filter(|holder| holder.group == group).copied().collect();
            let before = self
                .held
                .iter()
                .position(|held| held.group == group)
                .map(|index| self.held.swap_remove(index));
            let pause =
                before.as_ref().and_then(|held| held.again).map_or(FIRST_PAUSE, |(_, pause)| pause * 2);
            if before.is_some_and(|held| held.holders != holders) {
                self.changes.push(Change::Changed(group));
            }
            let exits: Vec<OwnedFd> = holders.iter().filter_map(|holder| self.exit_of(holder)).collect();
            let pause = match (holders.is_empty(), exits.is_empty()) {
                (true, _) => Some(pause.min(MAX_PROBE_INTERVAL)),
                (false, true) => Some(CONFIRM),
                (false, false) => None,
            };
            let again = pause.map(|pause| (now + pause, pause));
            self.held.push(Held { group, holders, coverage, again, exits });
        }
    }

    /// A descriptor that becomes readable when the holder exits: then its group can be opened (the kernel closes files
    /// before it signals the exit). Only for processes of our own pid namespace, and only if the pid still is that one.
    fn exit_of(&self, holder: &Holder) -> Option<OwnedFd> {
        if !self.own_processes {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(holder.pid).ok()?)?;
        let exit = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let (_, start_time) = self.monitor.root().process(holder.pid)?;
        let data = epoll::EventData::new_u64(EXITS | u64::from(holder.group.0));
        let added = epoll::add(&self.epoll, &exit, data, epoll::EventFlags::IN);
        (start_time == holder.start_time && added.is_ok()).then_some(exit)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("monitor", &self.monitor)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({}, {} holders, {} watched)", self.group, self.holders.len(), self.exits.len())
    }
}

fn timespec(duration: Duration) -> Timespec {
    // 0 would disarm the timer.
    let duration = duration.max(Duration::from_millis(1));
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn drain(fd: &OwnedFd) {
    let mut buffer = [0_u8; 4096];
    while read(fd, &mut buffer).is_ok_and(|length| length == buffer.len()) {}
}

fn uevent_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
    // Group 1 is the kernel's own; udevd sends on group 2.
    bind(&socket, &SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

fn watch_folder(root: &Root) -> rustix::io::Result<OwnedFd> {
    let folder =
        root.open_at(format_args!("dev/vfio"), rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY)?;
    let notify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::ATTRIB;
    // By way of the descriptor, since inotify takes no directory to start from.
    inotify::add_watch(
        &notify,
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder)),
        flags,
    )?;
    Ok(notify)
}

/// Whether the root's /proc is that of our own pid namespace.
fn shows_ourselves(root: &Root) -> bool {
    let mut text = [0; 64];
    let me = std::process::id().to_string();
    let name = root.link(format_args!("proc/self"), &mut text).ok().map(crate::root::last_component);
    // A tree's `self` may be a link to /proc/self rather than to our number.
    name == Some(me.as_bytes()) || name == Some(b"self")
}
