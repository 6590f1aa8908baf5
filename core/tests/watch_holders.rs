//! Holders found by a watch: named without delaying a pass, and as evidence that a group is held.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_probe::occupancy::Evidence;
use vfio_probe::{Event, GroupId, Monitor, Occupancy, Prober, Root, Watch, monitor, watch};
use vfio_sim_node::{Function, Hold, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const GROUP: GroupId = GroupId(51);
const INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

fn watch(node: &Node) -> Watch {
    let root = Arc::new(Root::open(node.root()).unwrap());
    let prober = Arc::new(Prober::new(Arc::clone(&root)));
    let options = monitor::Options { interval: INTERVAL, probe: true, ..monitor::Options::default() };
    let mut watch =
        Watch::new(Monitor::new(root, prober, options).unwrap(), watch::Options::default()).unwrap();
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
            events.push(event);
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

/// Mounts a FUSE file system whose server never answers. Returns none, with a line on standard error, for a user other than root.
///
/// # Panics
/// Root cannot mount it: the test would show nothing.
fn mount_without_answers(at: &std::path::Path) -> Option<File> {
    use rustix::mount::{MountFlags, mount};
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested: only root mounts a file system that hangs");
        return None;
    }
    let server =
        File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse cannot be opened");
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&server);
    let options = format!("fd={descriptor},rootmode=40000,user_id=0,group_id=0");
    let options = std::ffi::CString::new(options).unwrap();
    mount("test", at, "fuse", MountFlags::empty(), options.as_c_str()).expect("FUSE cannot be mounted");
    Some(server)
}

#[test]
fn proc_that_hangs_delays_no_event() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = watch(&node);
    let proc = node.root().join("proc");
    // The VM appears in the tree's /proc, so it starts first.
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let Some(server) = mount_without_answers(&proc) else { return };
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
    let _ = rustix::mount::unmount(&proc, rustix::mount::UnmountFlags::DETACH);
    vm.kill();
    until(&mut watch, "free", |watch| state(watch).0 == Occupancy::Free);
}

#[test]
fn process_that_hangs_hides_no_other_holder() {
    let node = Node::with_eight_gpus().unwrap();
    let hanging = node.root().join("proc/4000000");
    std::fs::create_dir_all(&hanging).unwrap();
    let Some(server) = mount_without_answers(&hanging) else { return };
    let mut watch = watch(&node);
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    until(&mut watch, "held", |watch| state(watch).0.is_held());
    until(&mut watch, "named", |watch| !watch.holders(GROUP).is_empty());
    assert_eq!(watch.holders(GROUP).iter().map(|holder| holder.pid).collect::<Vec<_>>(), [vm.pid()]);
    drop(server);
    let _ = rustix::mount::unmount(&hanging, rustix::mount::UnmountFlags::DETACH);
}
