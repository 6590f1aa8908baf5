//! Holders found by a watch: named without delaying a pass, and as evidence that a group is held.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vfio_probe::occupancy::Evidence;
use vfio_probe::{Event, GroupId, Occupancy, Root, Watch, watch};
use vfio_sim_node::{Function, Hold, Node, VmSpec, mount_without_answers};

const GPU: &str = "0000:1b:00.0";
const GROUP: GroupId = GroupId(51);
const INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

fn watch(node: &Node) -> Watch {
    let options = watch::Options::default().with_interval(INTERVAL).with_probe(true);
    let mut watch = Watch::open(&Root::open(node.root()).unwrap(), options).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while watch.next().is_some() || !watch.monitor().initial_probes_done() {
        assert!(Instant::now() < deadline, "no probe results");
    }
    watch
}

/// Polls until `wanted` holds after an event or a pass. Returns the events until then.
fn until(watch: &mut Watch, what: &str, mut wanted: impl FnMut(&Watch) -> bool) -> Vec<Event> {
    let (mut events, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        while let Some(event) = watch.next() {
            events.push(event.unwrap());
        }
        if wanted(watch) {
            return events;
        }
        assert!(Instant::now() < deadline, "never {what}: {events:?} {watch:?}");
        let fd = watch.fd();
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&second)).unwrap();
    }
}

fn state(watch: &Watch) -> (Occupancy, Evidence) {
    let group = watch.monitor().group(GROUP).unwrap();
    (group.state.occupancy, group.state.evidence)
}

/// A process that has the group open, closes it on request, and runs on.
struct Opener {
    shell: Child,
    input: ChildStdin,
}

impl Opener {
    fn start(node: &Node) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<\"$0\"; read line; exec 3<&-; read line"]);
        command.arg(node.root().join(format!("dev/vfio/{GROUP}"))).stdin(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let pid = shell.id();
        symlink(format!("/proc/{pid}"), node.root().join(format!("proc/{pid}"))).unwrap();
        let input = shell.stdin.take().unwrap();
        Self { shell, input }
    }

    fn close(&mut self) {
        use std::io::Write;
        writeln!(self.input).unwrap();
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn vm_that_starts_is_held_by_its_holder_without_a_probe() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = watch(&node);
    let opens = node.opens(GROUP.0);
    let vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) }).unwrap();
    let events = until(&mut watch, "held", |watch| state(watch).0.is_held());
    assert_eq!(state(&watch), (Occupancy::Held, Evidence::Holder));
    assert_eq!(events, [Event::Held(GROUP)]);
    assert_eq!(watch.holders(GROUP).iter().map(|holder| holder.pid).collect::<Vec<_>>(), [vm.pid()]);
    vm.kill();
    let events = until(&mut watch, "free", |watch| state(watch).0 == Occupancy::Free);
    assert_eq!(events, [Event::Freed(GROUP)]);
    assert!(watch.holders(GROUP).is_empty());
    // The VM's own opens are not counted.
    assert_eq!(node.opens(GROUP.0), opens, "the group was probed");
}

#[test]
fn holder_that_closes_the_group_and_runs_on_is_forgotten() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = watch(&node);
    let mut opener = Opener::start(&node);
    until(&mut watch, "held", |watch| state(watch) == (Occupancy::Held, Evidence::Holder));
    opener.close();
    let events = until(&mut watch, "free", |watch| state(watch).0 == Occupancy::Free);
    assert_eq!(events, [Event::Freed(GROUP)]);
}

#[test]
fn one_of_two_holders_keeps_the_group_held() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = watch(&node);
    let (first, second) = (Opener::start(&node), Opener::start(&node));
    until(&mut watch, "both known", |watch| watch.holders(GROUP).len() == 2);
    let pid = second.shell.id();
    drop(first);
    let events = until(&mut watch, "one known", |watch| watch.holders(GROUP).len() == 1);
    assert!(!events.contains(&Event::Freed(GROUP)), "{events:?}");
    assert_eq!(watch.holders(GROUP).iter().map(|holder| holder.pid).collect::<Vec<_>>(), [pid]);
    assert_eq!(state(&watch), (Occupancy::Held, Evidence::Holder));
    drop(second);
    until(&mut watch, "free", |watch| state(watch).0 == Occupancy::Free);
}

#[test]
fn descriptor_of_this_process_is_no_evidence() {
    let node = Node::with_eight_gpus().unwrap();
    let own = std::process::id();
    symlink(format!("/proc/{own}"), node.root().join(format!("proc/{own}"))).unwrap();
    let mut watch = watch(&node);
    // As a probe of this process, only longer.
    let _group = File::open(node.root().join(format!("dev/vfio/{GROUP}"))).unwrap();
    let other = Opener::start(&node);
    until(&mut watch, "held by the other", |watch| !watch.holders(GROUP).is_empty());
    assert_eq!(watch.holders(GROUP).iter().map(|holder| holder.pid).collect::<Vec<_>>(), [other.shell.id()]);
}

/// A child that was forked without an exec has copies of all descriptors, and epoll goes on to report
/// a pidfd as long as a copy of it is open.
#[test]
fn copy_of_a_pidfd_keeps_no_watch_awake() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = watch(&node);
    let opener = Opener::start(&node);
    until(&mut watch, "held", |watch| !watch.holders(GROUP).is_empty());
    let is_pidfd = |fd: &i32| {
        std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|link| link.ends_with("anon_inode:[pidfd]"))
            || std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
                .is_ok_and(|text| text.contains("\nPid:"))
    };
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let copies: Vec<_> = (3..100)
        .filter(|fd| *fd != own.as_raw_fd() && is_pidfd(fd))
        .filter_map(|fd| pidfd_getfd(&own, fd, PidfdGetfdFlags::empty()).ok())
        .collect();
    assert!(!copies.is_empty());
    drop(opener);
    until(&mut watch, "free", |watch| state(watch).0 == Occupancy::Free);
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let deadline = Instant::now() + PATIENCE;
    // Other news may still come, but not without an end.
    while poll(&mut [PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)], Some(&none)).unwrap() > 0 {
        assert!(Instant::now() < deadline, "the descriptor stays readable");
        while watch.next().is_some() {}
    }
}

/// A thread that mounts. A node drops CAP_SYS_ADMIN from the test's thread, so it starts before.
struct Mounter(mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl Mounter {
    fn start() -> Self {
        let (sender, orders) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::spawn(move || orders.into_iter().for_each(|order| order()));
        Self(sender)
    }

    /// Runs an order on the thread. Panics if that panics.
    fn run<T: Send + 'static>(&self, order: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        self.0.send(Box::new(move || drop(sender.send(order())))).unwrap();
        result.recv().expect("the thread that mounts says why it panicked")
    }

    fn mount(&self, at: &Path) -> Option<File> {
        let at = at.to_owned();
        self.run(move || mount_without_answers(&at).unwrap())
    }

    fn unmount(&self, at: &Path) {
        let at = at.to_owned();
        self.run(move || rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH)).unwrap();
    }
}

#[test]
fn proc_that_hangs_delays_no_event() {
    let mounter = Mounter::start();
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = watch(&node);
    let proc = node.root().join("proc");
    // The VM appears in the tree's /proc, so it starts first.
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let Some(server) = mounter.mount(&proc) else { return };
    let events = until(&mut watch, "held", |watch| state(watch).0.is_held());
    let late = "0000:f1:00.0";
    node.add(Function::gpu(late, 90, 1)).unwrap();
    let is_bound = |watch: &Watch| watch.monitor().group(GroupId(90)).is_some();
    until(&mut watch, "bound", is_bound);
    until(&mut watch, "reported as not searched", |watch| {
        watch.coverage(GROUP).is_some_and(|coverage| coverage.unsearched > 0)
    });
    assert!(watch.holders(GROUP).is_empty(), "{events:?}");
    // A kill removes the VM from the tree's /proc.
    drop(server);
    mounter.unmount(&proc);
    vm.kill();
    until(&mut watch, "free", |watch| state(watch).0 == Occupancy::Free);
}

#[test]
fn search_that_hangs_does_not_keep_a_watch_from_being_ready() {
    let mounter = Mounter::start();
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let proc = node.root().join("proc");
    let Some(server) = mounter.mount(&proc) else { return };
    let options = watch::Options::default().with_interval(INTERVAL);
    let mut watch = Watch::open(&Root::open(node.root()).unwrap(), options).unwrap();
    let events = until(&mut watch, "ready", Watch::is_ready);
    assert!(events.ends_with(&[Event::Held(GROUP), Event::Ready]), "{events:?}");
    assert!(watch.holders(GROUP).is_empty());
    drop(server);
    mounter.unmount(&proc);
}

#[test]
fn process_that_hangs_hides_no_other_holder() {
    let mounter = Mounter::start();
    let node = Node::with_eight_gpus().unwrap();
    let hanging = node.root().join("proc/4000000");
    std::fs::create_dir_all(&hanging).unwrap();
    let Some(server) = mounter.mount(&hanging) else { return };
    let mut watch = watch(&node);
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    until(&mut watch, "held", |watch| state(watch).0.is_held());
    until(&mut watch, "named", |watch| !watch.holders(GROUP).is_empty());
    assert_eq!(watch.holders(GROUP).iter().map(|holder| holder.pid).collect::<Vec<_>>(), [vm.pid()]);
    drop(server);
    mounter.unmount(&hanging);
}
