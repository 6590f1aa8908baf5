//! Polls the descriptor of a watch: what wakes it, and which events follow.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant};
use vfio_probe::{Event, GroupId, Root, Watch, watch};
use vfio_sim_node::{Function, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const GROUP: GroupId = GroupId(51);
const PATIENCE: Duration = Duration::from_secs(10);
/// An interval so long that the timer cannot explain an event within [`PATIENCE`].
const NEVER: Duration = Duration::from_secs(3600);

fn watch(node: &Node, interval: Duration) -> Watch {
    let options = watch::Options::default().with_interval(interval).with_probe(true);
    Watch::open(&Root::open(node.root()).unwrap(), options).unwrap()
}

/// Polls until `wanted` arrives. Returns all events until then.
fn expect(watch: &mut Watch, wanted: Event) -> Vec<Event> {
    let (mut events, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        while let Some(event) = watch.next() {
            let event = event.unwrap();
            events.push(event);
            if event == wanted {
                return events;
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{wanted:?} did not arrive: {events:?}");
        let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().max(1_000_000).into() };
        let fd = watch.fd();
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&left)).unwrap();
    }
}

/// Takes the events of the discovery.
fn discover(watch: &mut Watch) {
    expect(watch, Event::Bound("0000:df:00.0".parse().unwrap()));
    let deadline = Instant::now() + PATIENCE;
    while !watch.monitor().initial_probes_done() {
        assert!(Instant::now() < deadline, "no probe results");
        while watch.next().is_some() {}
        std::thread::sleep(Duration::from_millis(1));
    }
    while watch.next().is_some() {}
}

#[test]
fn bind_hold_free_and_unbind_are_reported_in_order() {
    let node = Node::with_eight_gpus().unwrap();
    let gpu = GPU.parse().unwrap();
    let mut watch = watch(&node, Duration::from_millis(20));
    discover(&mut watch);
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
fn exit_of_a_known_holder_wakes_at_once() {
    let node = Node::with_eight_gpus().unwrap();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let mut watch = watch(&node, NEVER);
    expect(&mut watch, Event::Held(GROUP));
    vm.kill();
    expect(&mut watch, Event::Freed(GROUP));
}

#[test]
fn holder_whose_descriptors_outlive_it_is_followed() {
    let node = Node::with_eight_gpus().unwrap();
    let teardown = Duration::from_millis(50);
    let vm = node.start_vm(&VmSpec { teardown, ..VmSpec::foreign(&[GPU]) }).unwrap();
    let mut watch = watch(&node, NEVER);
    expect(&mut watch, Event::Held(GROUP));
    vm.kill();
    expect(&mut watch, Event::Freed(GROUP));
}

#[test]
fn new_device_node_wakes_at_once() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = watch(&node, NEVER);
    discover(&mut watch);
    let late = "0000:f1:00.0";
    node.add(Function::gpu(late, 90, 1)).unwrap();
    expect(&mut watch, Event::Bound(late.parse().unwrap()));
}

#[test]
fn next_without_an_event_returns_at_once() {
    let node = Node::new().unwrap();
    let mut watch = watch(&node, NEVER);
    assert_eq!(watch.next(), Some(Ok(Event::Ready)));
    assert_eq!(watch.next(), None);
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)], Some(&none)), Ok(0));
}

/// Makes more passes than it takes to list all groups. Returns the events.
fn pass_over_all_groups(watch: &mut Watch) -> Vec<Event> {
    let mut events = Vec::new();
    for _ in 0..8 {
        watch.pass_now();
        events.extend(std::iter::from_fn(|| watch.next()).flatten());
    }
    events
}

#[test]
fn groups_are_listed_for_added_functions_only_without_uevents() {
    for uevents in [true, false] {
        let node = Node::with_eight_gpus().unwrap();
        let options = watch::Options::default().with_interval(NEVER).with_probe(true).with_uevents(uevents);
        let mut watch = Watch::open(&Root::open(node.root()).unwrap(), options).unwrap();
        discover(&mut watch);
        // The simulated node sends no uevent.
        node.add(Function::new("0000:1b:00.1", 51).with_driver(Some("snd_hda_intel"))).unwrap();
        let events = pass_over_all_groups(&mut watch);
        let is_listed = events.contains(&Event::Changed(GROUP));
        assert_eq!(is_listed, !watch.hears_uevents(), "{events:?}");
    }
}

/// The name of the variable that marks the child of the next test.
const CHILD: &str = "VFIO_PROBE_TEST_OTHER_NAMESPACE";

#[test]
fn uevents_are_not_heard_in_another_user_namespace() {
    const OTHER: [&str; 3] = ["--user", "--map-current-user", "--net"];
    if std::env::var_os(CHILD).is_some() {
        let watch = Watch::open(&Root::host().unwrap(), watch::Options::default()).unwrap();
        assert!(!watch.hears_uevents(), "the socket opens, and nothing arrives");
        return;
    }
    let unshare = |words: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(OTHER).args(words).env(CHILD, "").output()
    };
    if !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        return vfio_sim_node::not_tested("this user cannot create user namespaces");
    }
    let program = std::env::current_exe().unwrap();
    let test = "uevents_are_not_heard_in_another_user_namespace";
    let output = unshare(&[program.to_str().unwrap(), "--exact", test]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
