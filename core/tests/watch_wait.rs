//! Waits on a watch: what ends them, and what they leave for the next call.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use vfio_probe::watch::Wait;
use vfio_probe::{Event, GroupId, Occupancy, Prober, Root, Watch, watch};
use vfio_sim_node::{Function, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const GROUP: GroupId = GroupId(51);
const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

fn open(node: &Node, interval: Duration) -> Watch {
    let options = watch::Options { interval, ..watch::Options::default() };
    Watch::open(&Root::open(node.root()).unwrap(), options).unwrap()
}

/// Returns the events that are queued.
fn queued(watch: &mut Watch) -> Vec<Event> {
    std::iter::from_fn(|| watch.next()).map(Result::unwrap).collect()
}

#[test]
fn wait_ends_when_the_group_is_held_and_when_it_is_free() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, Duration::from_millis(20));
    assert_eq!(watch.wait_until_free(GROUP, None), Ok(true), "it is free");
    assert_eq!(watch.wait_until_held(GROUP, Some(SHORT)), Ok(false));
    assert_eq!(watch.wait_until_held(GROUP, Some(Duration::ZERO)), Ok(false));
    assert_eq!(watch.wait_until_free(GroupId(9), Some(SHORT)), Ok(false), "there is no such group");
    let events = queued(&mut watch);
    assert_eq!((events.len(), events.last()), (17, Some(&Event::Ready)), "{events:?}");
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert_eq!(watch.wait_until_held(GROUP, Some(PATIENCE)), Ok(true));
    assert_eq!(watch.wait_until_free(GROUP, Some(SHORT)), Ok(false));
    vm.kill();
    assert_eq!(watch.wait_until_free(GROUP, Some(PATIENCE)), Ok(true));
    let events = queued(&mut watch);
    assert_eq!(events.first(), Some(&Event::Held(GROUP)), "{events:?}");
    assert_eq!(events.last(), Some(&Event::Freed(GROUP)), "{events:?}");
}

#[test]
fn longest_durations_overflow_no_clock() {
    let node = Node::with_eight_gpus().unwrap();
    let root = Root::open(node.root()).unwrap();
    let long = Duration::MAX;
    let options =
        watch::Options { interval: long, probe: true, probe_deadline: long, ..watch::Options::default() };
    let mut watch = Watch::open(&root, options).unwrap();
    assert_eq!(watch.wait_until_free(GROUP, Some(long)), Ok(true));
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    watch.pass_now();
    assert_eq!(watch.wait_until_held(GROUP, Some(PATIENCE)), Ok(true));
    assert_eq!(Prober::new(root).probe(GROUP, long), Occupancy::Held);
}

#[test]
fn wait_can_be_about_several_groups() {
    let node = Node::with_eight_gpus().unwrap();
    let second = "0000:3d:00.0";
    let mut watch = open(&node, Duration::from_millis(20));
    let held = |watch: &Watch| {
        let groups = watch.monitor().groups().iter();
        groups.filter(|group| group.state.occupancy.is_held()).count()
    };
    let vm = node.start_vm(&VmSpec::foreign(&[GPU, second])).unwrap();
    let mut evaluated = 0;
    let both = watch.wait_for(Some(PATIENCE), |watch| {
        evaluated += 1;
        assert!(watch.is_ready());
        held(watch) == 2
    });
    assert_eq!(both, Ok(true));
    assert!(evaluated > 0);
    vm.kill();
    assert_eq!(watch.wait_for(Some(PATIENCE), |watch| held(watch) == 0), Ok(true));
}

#[test]
fn predicate_is_evaluated_after_news_only() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, Duration::from_millis(10));
    let mut evaluated = 0;
    let waited = watch.wait_for(Some(SHORT), |_| {
        evaluated += 1;
        false
    });
    assert_eq!((waited, evaluated), (Ok(false), 1));
}

#[test]
fn events_beyond_the_bound_become_one_rescan() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, Duration::from_millis(20));
    assert_eq!(queued(&mut watch).len(), 17);
    let change_often = |watch: &mut Watch| {
        for _ in 0..watch::MAX_QUEUED {
            watch.record_probe(GROUP, Occupancy::Held);
            watch.record_probe(GROUP, Occupancy::Free);
        }
    };
    // A caller that takes the events loses none, however many there are.
    change_often(&mut watch);
    assert_eq!(queued(&mut watch).len(), 2 * watch::MAX_QUEUED);
    change_often(&mut watch);
    assert_eq!(watch.wait_for(Some(SHORT), |_| false), Ok(false));
    assert_eq!(queued(&mut watch), [Event::Rescan]);
}

#[test]
fn watch_is_polled_by_its_descriptor() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, Duration::from_secs(3600));
    assert_eq!(queued(&mut watch).len(), 17);
    node.add(Function::gpu("0000:f1:00.0", 90, 1)).unwrap();
    let limit = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)), Ok(1));
}

/// Waits as a program with threads does: the lock is not held during the poll.
fn wait_shared(shared: &Mutex<Watch>, mut is_true: impl FnMut(&Watch) -> bool) {
    let (mut wait, deadline) = (Wait::new(), Instant::now() + PATIENCE);
    let fd = rustix::io::dup(shared.lock().unwrap().fd()).unwrap();
    while !wait.step(&mut shared.lock().unwrap(), &mut is_true).unwrap() {
        assert!(Instant::now() < deadline, "the wait missed its event");
        let limit = Timespec::try_from(PATIENCE).unwrap();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap();
    }
}

#[test]
fn event_that_one_wait_takes_wakes_the_others() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, Duration::from_secs(3600));
    assert_eq!(queued(&mut watch).len(), 17);
    let limit = Timespec::try_from(PATIENCE).unwrap();
    let (mut first, mut second, mut third) = (Wait::new(), Wait::new(), Wait::new());
    for wait in [&mut first, &mut second, &mut third] {
        assert_eq!(wait.step(&mut watch, |_| false), Ok(false));
    }
    node.add(Function::gpu("0000:f1:00.0", 90, 1)).unwrap();
    let is_bound = |watch: &Watch| watch.monitor().group(GroupId(90)).is_some();
    loop {
        assert_eq!(poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)), Ok(1));
        if first.step(&mut watch, is_bound) == Ok(true) {
            break;
        }
    }
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&now)), Ok(1), "for the others");
    assert_eq!(second.step(&mut watch, is_bound), Ok(true));
    assert_eq!(third.step(&mut watch, is_bound), Ok(true));
    assert!(queued(&mut watch).contains(&Event::Freed(GroupId(90))));
}

#[test]
fn one_event_ends_the_waits_of_two_threads() {
    let node = Node::with_eight_gpus().unwrap();
    let watch = open(&node, Duration::from_secs(1));
    let shared = Arc::new(Mutex::new(watch));
    wait_shared(&shared, |_| true);
    let (sender, ended) = mpsc::channel();
    for _ in 0..2 {
        let (shared, sender) = (Arc::clone(&shared), sender.clone());
        std::thread::spawn(move || {
            wait_shared(&shared, |watch| watch.monitor().group(GroupId(90)).is_some());
            sender.send(()).unwrap();
        });
    }
    node.add(Function::gpu("0000:f1:00.0", 90, 1)).unwrap();
    for _ in 0..2 {
        ended.recv_timeout(PATIENCE).unwrap();
    }
}
