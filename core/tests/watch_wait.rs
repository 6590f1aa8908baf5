//! Waits on a watch: what ends them, and what they leave for the next call.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, AsRawFd};
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
    let options = watch::Options::default().with_interval(interval);
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
    let options = watch::Options::default().with_interval(long).with_probe(true).with_probe_deadline(long);
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
fn wait_shared(shared: &Mutex<Watch>, mut step: impl FnMut(&mut Wait, &mut Watch) -> bool) {
    let (mut wait, deadline) = (Wait::new(), Instant::now() + PATIENCE);
    while !step(&mut wait, &mut shared.lock().unwrap()) {
        assert!(Instant::now() < deadline, "the wait missed its event");
        let limit = Timespec::try_from(PATIENCE).unwrap();
        poll(&mut [PollFd::new(&wait.fd().unwrap(), PollFlags::IN)], Some(&limit)).unwrap();
    }
}

/// An hour: no test that uses it can be rescued by the timer of the watch.
const NEVER: Duration = Duration::from_secs(3600);

/// Adds a GPU to a node whose watch hears no uevents. The watch may have seen the group's device node
/// before the device was there, so another change follows, which makes a pass.
fn add(node: &Node, address: &str, group: u32) {
    node.add(Function::gpu(address, group, 1)).unwrap();
    std::fs::write(node.root().join(format!("dev/vfio/signal-{group}")), "").unwrap();
}

fn is_ready_to_read(fd: impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).unwrap() == 1
}

/// The thread that wakes first empties the descriptor of the watch. The others, which have not run
/// yet, must find their own readable.
#[test]
fn event_that_one_wait_takes_wakes_the_others() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, NEVER);
    assert_eq!(queued(&mut watch).len(), 17);
    let limit = Timespec::try_from(PATIENCE).unwrap();
    let (mut first, mut second, mut third) = (Wait::new(), Wait::new(), Wait::new());
    let mut for_events = Wait::new();
    for wait in [&mut first, &mut second, &mut third] {
        assert_eq!(wait.step(&mut watch, |_| false), Ok(false));
    }
    assert_eq!(for_events.next(&mut watch), None);
    add(&node, "0000:f1:00.0", 90);
    let is_bound = |watch: &Watch| watch.monitor().group(GroupId(90)).is_some();
    loop {
        assert_eq!(poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)), Ok(1));
        if first.step(&mut watch, is_bound) == Ok(true) {
            break;
        }
    }
    // It waits for something else at once, and drains all that can be drained.
    while is_ready_to_read(first.fd().unwrap()) {
        assert_eq!(first.step(&mut watch, |_| false), Ok(false));
    }
    assert!(is_ready_to_read(&watch), "no wait takes the news of the one who polls the watch");
    for wait in [&mut second, &mut third] {
        assert!(is_ready_to_read(wait.fd().unwrap()));
        assert_eq!(wait.step(&mut watch, is_bound), Ok(true));
        assert!(!is_ready_to_read(wait.fd().unwrap()), "no news twice");
    }
    assert!(is_ready_to_read(for_events.fd().unwrap()));
    let events: Vec<_> = std::iter::from_fn(|| for_events.next(&mut watch)).map(Result::unwrap).collect();
    assert!(events.contains(&Event::Freed(GroupId(90))), "{events:?}");
    // What was taken by next() is news for the waits, too.
    add(&node, "0000:f2:00.0", 91);
    while !queued(&mut watch).contains(&Event::Freed(GroupId(91))) {
        assert_eq!(poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&limit)), Ok(1));
    }
    assert!(is_ready_to_read(second.fd().unwrap()) && is_ready_to_read(third.fd().unwrap()));
}

#[test]
fn each_event_ends_the_waits_of_eight_threads() {
    let node = Node::with_eight_gpus().unwrap();
    let shared = Arc::new(Mutex::new(open(&node, NEVER)));
    wait_shared(&shared, |wait, watch| wait.step(watch, |_| true).unwrap());
    for round in 0..16 {
        let group = GroupId(90 + round);
        let (sender, ended) = mpsc::channel();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (shared, sender) = (Arc::clone(&shared), sender.clone());
                std::thread::spawn(move || {
                    wait_shared(&shared, |wait, watch| {
                        wait.step(watch, |watch| watch.occupancy(group) == Some(Occupancy::Free)).unwrap()
                    });
                    sender.send(()).unwrap();
                })
            })
            .collect();
        // This one takes the events of all, as a thread that prints them does.
        let printer = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                wait_shared(&shared, |wait, watch| {
                    let mut events = std::iter::from_fn(|| wait.next(watch)).map(Result::unwrap);
                    events.any(|event| event == Event::Freed(group))
                });
            }
        });
        add(&node, &format!("0000:f{round:x}:00.0"), group.0);
        for _ in 0..8 {
            ended.recv_timeout(PATIENCE).unwrap();
        }
        printer.join().unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// One thread polls the descriptor of the watch, while four others wait and are quicker.
#[test]
fn polled_watch_shows_all_news_beside_four_waits() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, NEVER);
    assert_eq!(queued(&mut watch).len(), 17);
    let shared = Arc::new(Mutex::new(watch));
    for round in 0..16 {
        let group = GroupId(90 + round);
        let free = move |watch: &Watch| watch.occupancy(group) == Some(Occupancy::Free);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    wait_shared(&shared, |wait, watch| wait.step(watch, free).unwrap());
                })
            })
            .collect();
        let poller = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let fd = rustix::io::dup(shared.lock().unwrap().fd()).unwrap();
                let limit = Timespec::try_from(PATIENCE).unwrap();
                let mut events = Vec::new();
                while !events.contains(&Event::Freed(group)) {
                    let polled = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit));
                    assert_eq!(polled, Ok(1), "round {round}: the poller missed its event");
                    events.extend(queued(&mut shared.lock().unwrap()));
                }
            }
        });
        add(&node, &format!("0000:f{round:x}:00.0"), group.0);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        poller.join().unwrap();
    }
}

/// The calls of the one who polls the watch end what waits have made readable, however it asks.
#[test]
fn polled_descriptor_stays_readable_until_its_own_call() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, NEVER);
    let mut wait = Wait::new();
    for calls in [
        (|watch: &mut Watch| assert!(queued(watch).contains(&Event::Ready))) as fn(&mut Watch),
        |watch| watch.update().unwrap(),
        |watch| assert_eq!(watch.wait_until_held(GROUP, Some(Duration::ZERO)), Ok(false)),
        |watch| while watch.wait_for_event(Some(Duration::ZERO)).unwrap().is_some() {},
    ] {
        let before = watch.news();
        watch.record_probe(GROUP, Occupancy::Held);
        watch.record_probe(GROUP, Occupancy::Free);
        assert_eq!(wait.step(&mut watch, |_| false), Ok(false));
        assert!(watch.news() > before);
        assert_eq!(watch.wait_for(Some(SHORT), |_| true), Ok(true));
        assert!(is_ready_to_read(&watch), "a wait has taken in news");
        calls(&mut watch);
        assert!(!is_ready_to_read(&watch));
    }
}

/// A wait that creates a descriptor each time would make a program slow that waits often.
#[test]
fn waits_one_after_the_other_share_a_descriptor() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = open(&node, NEVER);
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let mut wait = Wait::new();
        assert_eq!(wait.step(&mut watch, |_| true), Ok(true));
        numbers.push(wait.fd().unwrap().as_raw_fd());
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1);
}
