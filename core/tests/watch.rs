//! The one descriptor to poll: what wakes it, and what is told then.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_probe::{Event, GroupId, Monitor, Prober, Root, Watch, monitor, watch};
use vfio_sim_node::{Function, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const GROUP: GroupId = GroupId(51);
const PATIENCE: Duration = Duration::from_secs(10);
/// So long that no tick can explain what is told within [`PATIENCE`].
const NEVER: Duration = Duration::from_secs(3600);

fn watch(node: &Node, interval: Duration) -> Watch {
    let root = Arc::new(Root::open(node.root()).unwrap());
    let prober = Arc::new(Prober::new(Arc::clone(&root)));
    let options = monitor::Options { interval, ..monitor::Options::default() };
    let monitor = Monitor::new(root, prober, options).unwrap();
    Watch::new(monitor, watch::Options::default()).unwrap()
}

/// Polls until `wanted` is told; everything told on the way.
fn expect(watch: &mut Watch, wanted: Event) -> Vec<Event> {
    let (mut told, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        while let Some(event) = watch.next() {
            told.push(event);
            if event == wanted {
                return told;
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "never told {wanted:?}: {told:?}");
        let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().max(1_000_000).into() };
        let fd = watch.fd();
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&left)).unwrap();
    }
}

/// Takes everything that the start makes news.
fn settle(watch: &mut Watch) {
    expect(watch, Event::Bound("0000:df:00.0".parse().unwrap()));
    let deadline = Instant::now() + PATIENCE;
    while !watch.monitor().initial_probes_done() {
        assert!(Instant::now() < deadline, "no answers");
        while watch.next().is_some() {}
        std::thread::sleep(Duration::from_millis(1));
    }
    while watch.next().is_some() {}
}

#[test]
fn everything_is_told_in_order() {
    let node = Node::with_eight_gpus().unwrap();
    let gpu = GPU.parse().unwrap();
    let mut watch = watch(&node, Duration::from_millis(20));
    settle(&mut watch);
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&mut watch, Event::Held(GROUP));
    let [holder] = watch.holders(GROUP) else { panic!("{:?}", watch.holders(GROUP)) };
    assert_eq!((holder.pid, holder.command.as_str()), (vm.pid(), "qemu-system-x86"));
    vm.kill();
    assert_eq!(expect(&mut watch, Event::Freed(GROUP)), [Event::Freed(GROUP)]);
    assert!(watch.holders(GROUP).is_empty());
    node.unbind(GPU).unwrap();
    assert_eq!(expect(&mut watch, Event::Unbound(gpu)), [Event::Unbound(gpu)]);
    node.bind(GPU, "vfio-pci").unwrap();
    expect(&mut watch, Event::Bound(gpu));
}

#[test]
fn a_known_holders_exit_wakes_at_once() {
    let node = Node::with_eight_gpus().unwrap();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let mut watch = watch(&node, NEVER);
    expect(&mut watch, Event::Held(GROUP));
    vm.kill();
    expect(&mut watch, Event::Freed(GROUP));
}

#[test]
fn a_holder_whose_descriptors_outlive_it_is_followed() {
    let node = Node::with_eight_gpus().unwrap();
    let teardown = Duration::from_millis(50);
    let vm = node.start_vm(&VmSpec { teardown, ..VmSpec::foreign(&[GPU]) }).unwrap();
    let mut watch = watch(&node, NEVER);
    expect(&mut watch, Event::Held(GROUP));
    vm.kill();
    expect(&mut watch, Event::Freed(GROUP));
}

#[test]
fn a_node_that_appears_wakes_at_once() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = watch(&node, NEVER);
    settle(&mut watch);
    let late = "0000:f1:00.0";
    node.add(Function::gpu(late, 90, 1)).unwrap();
    expect(&mut watch, Event::Bound(late.parse().unwrap()));
}

#[test]
fn next_never_waits_and_nothing_is_nothing() {
    let node = Node::new().unwrap();
    let mut watch = watch(&node, NEVER);
    assert_eq!(watch.next(), None);
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)], Some(&none)), Ok(0));
}
