//! Opens the kernel's sources of news and polls them by one epoll descriptor.

use crate::error::{Error, Result, is_shortage};
use crate::id::GroupId;
use crate::root::Root;
use crate::uevent::{self, Uevent};
use rustix::event::epoll;
use rustix::fs::{OFlags, inotify, readlink};
use rustix::io::{Errno, read};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Epoll data of the sources.
const UEVENTS: u64 = 1;
const NODES: u64 = 2;
const TICK: u64 = 3;
const RESULTS: u64 = 4;
const HOLDERS: u64 = 5;
const END: u64 = 6;
/// Epoll data of a holder's exit: this, the pid in the bits from 32 on, and the group below them.
const EXITS: u64 = 1 << 63;

/// The link of the initial user namespace (PROC_USER_INIT_INO, fixed as user-space ABI).
const INITIAL_USER_NAMESPACE: &[u8] = b"user:[4026531837]";
/// Largest number of uevents that one call reads, so that a storm of them delays nothing else for
/// long.
const MAX_UEVENTS: usize = 256;
/// Size of the buffer for one uevent in bytes. The kernel's message has 2 KiB of environment
/// (UEVENT_BUFFER_SIZE) and a path.
const MAX_MESSAGE: usize = 8192;

/// Space for the ready sources of one poll.
pub(super) type ReadySpace = [MaybeUninit<epoll::Event>; 32];

/// A source that is ready.
#[derive(Clone, Copy)]
pub(super) enum Signal {
    /// Uevents can be read.
    Uevents,
    /// An entry of /dev/vfio was created, removed or changed.
    Nodes,
    /// The timer has expired.
    Tick,
    /// Probe results have arrived.
    Results,
    /// The search for holders has found out something.
    Holders,
    /// A known holder of this group has exited. With its pid.
    Exit(GroupId, u32),
}

/// What the uevent socket delivers.
pub(super) enum Uevents {
    /// An event about a device or a driver.
    Event(Uevent),
    /// The kernel dropped events, because the socket was full.
    Lost,
}

/// A descriptor that is polled until it is dropped.
///
/// Closing it is not enough: epoll reports it as long as a copy of it is open, as in a child that was
/// forked without an exec.
pub(super) struct Polled {
    fd: OwnedFd,
    /// Gone when the whole watch is dropped: a forked child that does so would otherwise remove what
    /// its parent polls.
    epoll: Weak<OwnedFd>,
}

impl Drop for Polled {
    fn drop(&mut self) {
        if let Some(epoll) = self.epoll.upgrade() {
            // Nothing can be done if this fails.
            let _ = epoll::delete(&*epoll, &self.fd);
        }
    }
}

/// The descriptors of all sources.
pub(super) struct Sources {
    /// The first field, so that it is dropped before each [`Polled`].
    epoll: Arc<OwnedFd>,
    /// None if the kernel refuses the socket, as in a user namespace.
    uevents: Option<OwnedFd>,
    /// The socket could not be opened, because this process has no descriptor left.
    uevents_missing: bool,
    /// The kernel sends its uevents to the network namespace of this process.
    uevents_sent: bool,
    /// None while /dev/vfio does not exist.
    nodes: Option<Polled>,
    tick: OwnedFd,
}

impl Sources {
    /// Creates the sources. `results` is the descriptor that signals probe results.
    ///
    /// # Errors
    /// The kernel creates no epoll descriptor or no timer.
    pub(super) fn new(interval: Duration, results: BorrowedFd<'_>, uevents: bool) -> Result<Self> {
        let system = |errno| Error::system(errno, "watch");
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?);
        let tick = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(system)?;
        let mut sources = Self {
            epoll,
            uevents: None,
            uevents_missing: uevents,
            uevents_sent: uevents && in_initial_user_namespace(),
            nodes: None,
            tick,
        };
        sources.set_tick(interval, interval).map_err(system)?;
        sources.add(sources.tick.as_fd(), TICK).map_err(system)?;
        sources.add(results, RESULTS).map_err(system)?;
        sources.listen_to_uevents();
        Ok(sources)
    }

    /// Opens the socket for uevents, unless it is open, not wanted, or refused. Returns whether it was
    /// opened: earlier uevents were not heard.
    pub(super) fn listen_to_uevents(&mut self) -> bool {
        if !self.uevents_missing {
            return false;
        }
        let socket = uevent_socket();
        self.uevents_missing = socket.as_ref().is_err_and(|errno| is_shortage(*errno));
        self.uevents = socket.ok().filter(|socket| self.add(socket.as_fd(), UEVENTS).is_ok());
        self.uevents.is_some()
    }

    fn add(&self, fd: BorrowedFd<'_>, data: u64) -> rustix::io::Result<()> {
        epoll::add(&*self.epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN)
    }

    fn poll(&self, fd: OwnedFd, data: u64) -> Option<Polled> {
        self.add(fd.as_fd(), data).ok()?;
        Some(Polled { fd, epoll: Arc::downgrade(&self.epoll) })
    }

    /// Returns whether each uevent arrives, or its loss. A process of the initial user namespace that has
    /// entered a network namespace of another one is not noticed.
    pub(super) fn hears_uevents(&self) -> bool {
        self.uevents.is_some() && self.uevents_sent
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Returns the sources that are ready now. Never blocks.
    pub(super) fn ready<'a>(&self, space: &'a mut ReadySpace) -> impl Iterator<Item = Signal> + 'a {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = epoll::wait(&*self.epoll, space, Some(&zero)).ok();
        ready.into_iter().flat_map(|(ready, _)| ready.iter()).filter_map(|event| match event.data.u64() {
            UEVENTS => Some(Signal::Uevents),
            NODES => Some(Signal::Nodes),
            TICK => Some(Signal::Tick),
            RESULTS => Some(Signal::Results),
            HOLDERS => Some(Signal::Holders),
            END => None,
            exit => {
                let (pid, group) = ((exit & !EXITS) >> 32, exit & u64::from(u32::MAX));
                let half = |bits| u32::try_from(bits).unwrap_or_default();
                Some(Signal::Exit(GroupId(half(group)), half(pid)))
            }
        })
    }

    /// Sets the timer to expire after `first`, and then every `interval`.
    pub(super) fn set_tick(&self, first: Duration, interval: Duration) -> rustix::io::Result<()> {
        let times = Itimerspec { it_interval: timespec(interval), it_value: timespec(first) };
        timerfd_settime(&self.tick, TimerfdTimerFlags::empty(), &times).map(|_| ())
    }

    /// Reads the timer. Without that the kernel does not start its next period (`timerfd_read_iter`).
    pub(super) fn clear_tick(&self) {
        let _ = read(&self.tick, &mut [0_u8; 8]);
    }

    /// Takes the events of /dev/vfio. Drops the watch if the directory itself has gone.
    pub(super) fn clear_nodes(&mut self) {
        let Some(nodes) = &self.nodes else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&nodes.fd, &mut buffer);
        let gone = inotify::ReadFlags::IGNORED | inotify::ReadFlags::UNMOUNT | inotify::ReadFlags::MOVE_SELF;
        let mut has_gone = false;
        while let Ok(event) = reader.next() {
            has_gone |= event.events().intersects(gone);
        }
        if has_gone {
            self.nodes = None;
        }
    }

    /// Returns whether every change of /dev/vfio is reported.
    pub(super) fn watches_nodes(&self) -> bool {
        self.nodes.is_some()
    }

    /// Watches /dev/vfio, if it is not watched yet. devtmpfs creates and removes device nodes
    /// through the VFS, so inotify reports them. (Directories in sysfs raise no inotify events.)
    /// The directory may appear late, with the first device that is ever bound.
    pub(super) fn watch_nodes(&mut self, root: &Root) {
        if self.nodes.is_none() {
            let nodes = watch_vfio_directory(root).ok();
            self.nodes = nodes.and_then(|nodes| self.poll(nodes, NODES));
        }
    }

    /// Drops the inotify watch, because the directory was removed.
    pub(super) fn drop_nodes(&mut self) {
        self.nodes = None;
    }

    /// Signals [`Signal::Exit`] when the process of a pidfd exits, until the result is dropped. Returns
    /// none if that is not possible.
    pub(super) fn watch_exit(&self, pidfd: OwnedFd, group: GroupId, pid: u32) -> Option<Polled> {
        self.poll(pidfd, EXITS | u64::from(pid) << 32 | u64::from(group.0))
    }

    /// Signals [`Signal::Holders`] when `fd` is readable.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn watch_holders(&self, fd: BorrowedFd<'_>) -> Result<()> {
        self.add(fd, HOLDERS).map_err(|errno| Error::system(errno, "watch"))
    }

    /// Makes the sources readable for as long as `fd` is, without a signal.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn watch_end(&self, fd: BorrowedFd<'_>) -> Result<()> {
        self.add(fd, END).map_err(|errno| Error::system(errno, "watch"))
    }

    /// Reads the uevents that have arrived, at most 256. Ignores messages that the kernel did not
    /// send.
    pub(super) fn read_uevents(&self, mut visit: impl FnMut(Uevents)) {
        let Some(socket) = &self.uevents else { return };
        let mut message = [0_u8; MAX_MESSAGE];
        for _ in 0..MAX_UEVENTS {
            match recvfrom(socket, &mut message[..], RecvFlags::DONTWAIT) {
                Ok((length, _, sender)) => {
                    let kernel = sender.is_some_and(|sender| {
                        SocketAddrNetlink::try_from(sender)
                            .is_ok_and(|sender| sender.pid() == 0 && sender.groups() == 1)
                    });
                    let event = message.get(..length).filter(|_| kernel).and_then(uevent::parse);
                    if let Some(event) = event {
                        visit(Uevents::Event(event));
                    }
                }
                Err(Errno::NOBUFS) => visit(Uevents::Lost),
                Err(_) => return,
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    // A duration of 0 would disarm the timer.
    let duration = duration.max(Duration::from_millis(1));
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn uevent_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
    // The kernel sends to multicast group 1. udevd sends to group 2.
    bind(&socket, &SocketAddrNetlink::new(0, 1))?;
    Ok(socket)
}

/// Returns whether this process is in the initial user namespace. False if that cannot be read.
///
/// The kernel sends uevents only to network namespaces of the initial user namespace
/// (`uevent_net_init`). In others, as those of a pod with `hostUsers: false`, the socket can be opened
/// all the same, and nothing arrives.
fn in_initial_user_namespace() -> bool {
    let link = readlink("/proc/self/ns/user", Vec::new());
    link.is_ok_and(|link| link.as_bytes() == INITIAL_USER_NAMESPACE)
}

fn watch_vfio_directory(root: &Root) -> rustix::io::Result<OwnedFd> {
    let directory = root.open_at(format_args!("dev/vfio"), OFlags::PATH | OFlags::DIRECTORY)?;
    let notify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    // A rename is a change too: a device manager creates a node under another name first.
    let flags = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::MOVE
        | inotify::WatchFlags::MOVE_SELF
        | inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::ATTRIB;
    // inotify takes no directory descriptor to start from, so the path goes through /proc/self/fd.
    inotify::add_watch(&notify, format!("/proc/self/fd/{}", directory.as_raw_fd()), flags)?;
    Ok(notify)
}
