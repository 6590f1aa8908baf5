//! What a watch reports first: each device and group once, then that it is ready; or why it is not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use std::time::{Duration, Instant};
use vfio_probe::{DeviceId, Event, GroupId, Root, Watch, watch};
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const GROUP: GroupId = GroupId(51);
const PATIENCE: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(50);
const MDEV: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

fn options(probe: bool, holders: bool) -> watch::Options {
    watch::Options::default().with_interval(INTERVAL).with_probe(probe).with_holders(holders)
}

fn open(node: &Node, options: watch::Options) -> Watch {
    Watch::open(&Root::open(node.root()).unwrap(), options).unwrap()
}

/// Returns the events before the watch is ready.
fn until_ready(watch: &mut Watch) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        assert!(!watch.is_ready() || watch.news() > 0);
        match watch.wait_for_event(Some(PATIENCE)).unwrap() {
            Some(Event::Ready) => {
                assert!(watch.is_ready());
                return events;
            }
            event => events.push(event.unwrap_or_else(|| panic!("never ready: {events:?} {watch:?}"))),
        }
    }
}

/// Returns the events about each group in the order of the groups.
fn of_groups(events: &[Event]) -> Vec<Event> {
    let mut events: Vec<_> = events.iter().copied().filter(|event| event.group().is_some()).collect();
    events.sort_by_key(|event| event.group());
    events
}

/// Two functions in one group that is held, a free group, a mediated device, and a group whose device
/// node is missing.
fn node() -> (Node, vfio_sim_node::Vm) {
    let node = Node::new().unwrap();
    node.add(Function::gpu(GPU, 51, 0)).unwrap();
    node.add(Function::new("0000:1b:00.1", 51)).unwrap();
    node.add(Function::gpu("0000:3d:00.0", 52, 0)).unwrap();
    node.add(Function::gpu("0000:5f:00.0", 53, 0)).unwrap();
    node.delete("dev/vfio/53").unwrap();
    let parent = "0000:3d:00.0".to_owned();
    node.add_mdev(&Mdev {
        uuid: MDEV.to_owned(),
        parent,
        kind: "nvidia-35".to_owned(),
        group: 60,
        cdev: Some(60),
    })
    .unwrap();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    (node, vm)
}

#[test]
fn each_group_is_reported_as_it_is_found() {
    let (node, vm) = node();
    for holders in [true, false] {
        let mut watch = open(&node, options(false, holders));
        let events = until_ready(&mut watch);
        let groups = of_groups(&events);
        let expected = [
            Event::Held(GROUP),
            Event::Freed(GroupId(52)),
            Event::Changed(GroupId(53)),
            Event::Changed(GroupId(60)),
        ];
        assert_eq!(groups, expected, "holders: {holders}, {events:?}");
        let devices: Vec<DeviceId> = events.iter().filter_map(|event| event.device()).collect();
        assert_eq!(devices.len(), 4);
        let found: Vec<u32> = watch.holders(GROUP).iter().map(|holder| holder.pid).collect();
        let expected = if holders { vec![vm.pid()] } else { Vec::new() };
        assert_eq!(found, expected, "the event that the group is held waits for its holders");
        // It comes once.
        assert_eq!(watch.wait_for_event(Some(INTERVAL * 3)).unwrap(), None);
    }
}

#[test]
fn probed_groups_are_reported_before_the_watch_is_ready() {
    let (node, _vm) = node();
    let mut watch = open(&node, options(true, true));
    let groups = of_groups(&until_ready(&mut watch));
    let expected = [
        Event::Held(GROUP),
        Event::Freed(GroupId(52)),
        Event::Changed(GroupId(53)),
        Event::Freed(GroupId(60)),
    ];
    assert_eq!(groups, expected);
    assert!(node.opens(52) > 0);
}

#[test]
fn node_without_devices_is_ready_without_another_event() {
    let node = Node::new().unwrap();
    let mut watch = open(&node, options(true, true));
    assert!(!watch.is_ready());
    assert_eq!(until_ready(&mut watch), []);
}

#[test]
fn group_that_is_no_longer_absent_is_freed() {
    let node = Node::with_eight_gpus().unwrap();
    let target = std::fs::read_link(node.root().join("dev/vfio/51")).unwrap();
    node.delete("dev/vfio/51").unwrap();
    let mut watch = open(&node, options(false, true));
    assert!(until_ready(&mut watch).contains(&Event::Changed(GROUP)));
    assert_eq!(watch.wait_until_free(GROUP, Some(Duration::ZERO)), Ok(false));
    std::os::unix::fs::symlink(target, node.root().join("dev/vfio/51")).unwrap();
    assert_eq!(watch.wait_until_free(GROUP, Some(PATIENCE)), Ok(true));
    assert_eq!(watch.next(), Some(Ok(Event::Freed(GROUP))));
}

#[test]
fn each_failed_pass_is_an_error_until_the_node_is_readable() {
    let node = Node::with_eight_gpus().unwrap();
    let class = node.root().join("sys/class/vfio-dev");
    let aside = node.root().join("aside");
    std::fs::rename(&class, &aside).unwrap();
    std::fs::write(&class, "").unwrap();
    let mut watch = open(&node, options(false, true));
    let deadline = Instant::now() + PATIENCE;
    for failure in 0..3 {
        let error = watch.wait_for_event(Some(PATIENCE)).unwrap_err();
        assert!(error.to_string().contains("sys/class/vfio-dev"), "{error}");
        assert_eq!((watch.next(), watch.is_ready()), (None, false), "failure {failure}");
        assert_eq!(watch.failure(), Some(error), "the state of the latest pass stays");
        assert!(Instant::now() < deadline);
    }
    // A wait reports it too, and does not evaluate the predicate.
    assert!(watch.wait_for(Some(PATIENCE), |_| panic!("not ready")).is_err());
    std::fs::remove_file(&class).unwrap();
    std::fs::rename(&aside, &class).unwrap();
    while watch.failure().is_some() {
        assert!(Instant::now() < deadline);
        let _ = watch.wait_for(Some(INTERVAL), |_| true);
    }
    let events = until_ready(&mut watch);
    assert_eq!((events.len(), of_groups(&events).len()), (16, 8), "{events:?}");
    // A failure after that leaves the watch ready.
    std::fs::rename(&class, &aside).unwrap();
    std::fs::write(&class, "").unwrap();
    assert!(watch.wait_for_event(Some(PATIENCE)).is_err());
    assert!(watch.is_ready());
    assert_eq!(watch.monitor().devices().len(), 8);
}
