//! A process with fewer descriptors than the node has functions on VFIO drivers. One test, because
//! the limit is the process's.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;
use vfio_probe::monitor::Options;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, Change, DeviceId, GroupId, Monitor, Occupancy, Prober, Root};
use vfio_sim_node::{Function, Node, VmSpec};

const LIMIT: u64 = 256;
const FUNCTIONS: u32 = 400;
const GROUPS: u32 = 8;

fn address(index: u32) -> String {
    format!("0000:{:02x}:{:02x}.0", 0x10 + index / 32, index % 32)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn pass(monitor: &mut Monitor) -> Vec<Change> {
    let mut changes = Vec::new();
    monitor.pass(Instant::now(), &mut changes).unwrap();
    changes
}

/// Opens files until the process has `left` descriptors left.
fn use_up(left: usize) -> Vec<File> {
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    files.truncate(files.len() - left);
    files
}

#[test]
fn more_functions_than_descriptors_are_followed() {
    let node = Node::new().unwrap();
    for index in 0..FUNCTIONS {
        node.add(Function::gpu(&address(index), 50 + index % GROUPS, 0)).unwrap();
    }
    let limits = Rlimit { current: Some(LIMIT), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limits).unwrap();
    let before = open_descriptors();
    let root = Root::open(node.root()).unwrap();
    let prober = Arc::new(Prober::new(root.clone()));
    let options = Options::default();
    let mut monitor = Monitor::new(root, prober, options).unwrap();
    assert_eq!(pass(&mut monitor).len(), FUNCTIONS as usize + GROUPS as usize, "bound, and changed to free");
    for _ in 0..3 {
        assert_eq!(pass(&mut monitor), []);
    }
    let (kept, limit) = monitor.kept_descriptors();
    assert_eq!((kept, limit), (96, 96), "three eighths of the limit");
    assert!(open_descriptors() - before <= kept + 8, "{} of {before}", open_descriptors());
    assert_eq!(monitor.errors(), []);

    // The count of a function without a descriptor of its own is read too.
    let last: DeviceId = address(FUNCTIONS - 1).parse().unwrap();
    let group = GroupId(50 + (FUNCTIONS - 1) % GROUPS);
    let vm = node.start_vm(&VmSpec::foreign(&[&last.to_string()])).unwrap();
    assert_eq!(pass(&mut monitor), [Change::Held(group)]);
    vm.kill();
    assert_eq!(pass(&mut monitor), [Change::Freed(group)]);

    // Without any descriptor left, nothing is concluded: no function is unbound, no node missing.
    let gone: DeviceId = address(7).parse().unwrap();
    node.unbind(&gone.to_string()).unwrap();
    for left in 0..4 {
        let files = use_up(left);
        let mut changes = Vec::new();
        let result = monitor.pass(Instant::now(), &mut changes);
        drop(files);
        let expected = if changes.is_empty() { vec![] } else { vec![Change::Unbound(gone)] };
        changes.retain(|change| !matches!(change, Change::Changed(_)));
        assert_eq!(changes, expected, "{left} descriptors left: {result:?}");
        assert!(monitor.vfio_visible() && monitor.has_group_nodes(), "{left} descriptors left");
        let free = monitor.groups().iter().filter(|group| group.state.occupancy == Occupancy::Free);
        assert_eq!(free.count(), GROUPS as usize, "{left} descriptors left");
    }
    for left in 0..4 {
        let files = use_up(left);
        let peek = monitor.root().peek(group, &mut Buffer::new());
        drop(files);
        let expected = if left < 2 { None } else { Some(Peek::LooksFree) };
        assert_eq!(peek.ok(), expected, "{left} descriptors left");
    }
    pass(&mut monitor);
    let device = |tracked: &&vfio_probe::monitor::Tracked| tracked.device.id == gone;
    assert!(!monitor.devices().iter().any(|tracked| device(&tracked)));
    assert_eq!(monitor.devices().len(), FUNCTIONS as usize - 1);
    assert_eq!(monitor.errors(), []);

    // Only what is watched costs descriptors and system calls.
    monitor.set_watched(Some(vec![GroupId(50)]));
    assert_eq!(monitor.kept_descriptors().0, 50);
    pass(&mut monitor);
    assert_eq!(monitor.kept_descriptors().0, 50);
    let vm = node.start_vm(&VmSpec::foreign(&[&last.to_string()])).unwrap();
    assert_eq!(pass(&mut monitor), []);
    monitor.set_watched(None);
    assert_eq!(pass(&mut monitor), [Change::Held(group)]);
    vm.kill();
}
