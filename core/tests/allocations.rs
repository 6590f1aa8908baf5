//! Proves that a repeated scan, peek, probe and pass allocates nothing on the heap, and that a pass
//! reads once for each group.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use allocation_counter::measure;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_probe::device::Detail;
use vfio_probe::monitor::Options;
use vfio_probe::{Buffer, GroupId, Monitor, Prober, Root, Watch, watch};
use vfio_sim_node::{Node, VmSpec};

#[test]
fn allocation_counter_counts_one_allocation() {
    assert_eq!(measure(|| drop(vec![0_u8; 100])).count_total, 1);
}

#[test]
fn scan_peek_and_probe_allocate_nothing() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&["0000:1b:00.0"])).unwrap();
    let root = Root::open(node.root()).unwrap();
    let mut buffer = Buffer::new();
    let mut seen = 0;
    let counted = measure(|| {
        for _ in 0..10 {
            root.scan(Detail::Full, &mut buffer, |device| seen += usize::from(device.is_ok())).unwrap();
            for group in 51..59 {
                root.peek(GroupId(group), &mut buffer).unwrap();
                let _ = root.probe(GroupId(group));
            }
        }
    });
    assert_eq!((seen, counted.count_total), (80, 0));
}

#[test]
fn pass_without_a_change_allocates_nothing() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&["0000:1b:00.0"])).unwrap();
    let root = Root::open(node.root()).unwrap();
    let prober = Arc::new(Prober::new(root.clone()));
    let mut monitor = Monitor::new(root, prober, Options { probe: true, ..Options::default() }).unwrap();
    let mut changes = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !monitor.initial_probes_done() {
        assert!(Instant::now() < deadline, "no probe results");
        monitor.pass(Instant::now(), &mut changes).unwrap();
    }
    // From the second pass on, two lists of entries take turns. The results can already have
    // arrived after the first pass.
    for _ in 0..2 {
        monitor.pass(Instant::now(), &mut changes).unwrap();
    }
    changes.clear();
    let counted = measure(|| {
        for _ in 0..10 {
            monitor.pass(Instant::now(), &mut changes).unwrap();
        }
    });
    assert_eq!((changes.len(), counted.count_total), (0, 0));
}

/// Returns the number of read system calls of this thread so far (proc(5), `syscr`).
fn reads() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap();
    line.parse().unwrap()
}

/// Makes passes of a watch whenever its timer has expired.
fn passes(watch: &mut Watch, count: u32) {
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(25));
        assert_eq!(watch.next(), None);
    }
}

#[test]
fn watch_without_a_change_reads_once_for_each_group() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&["0000:1b:00.0"])).unwrap();
    let interval = Duration::from_millis(20);
    let options = watch::Options::default().with_interval(interval).with_probe(true);
    let mut watch = Watch::open(&Root::open(node.root()).unwrap(), options).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while watch.next().is_some() || watch.holders(GroupId(51)).is_empty() {
        assert!(Instant::now() < deadline, "the holder was not found");
    }
    passes(&mut watch, 10);
    let counted = measure(|| passes(&mut watch, 20));
    assert_eq!(counted.count_total, 0);
    // Reading the counter costs some reads too.
    let own = {
        let before = reads();
        reads() - before
    };
    let before = reads();
    passes(&mut watch, 20);
    let counted = reads() - before - own;
    assert_eq!(counted, 20 * (8 + 1), "one for each group, one for the timer");
}

#[test]
fn each_tick_makes_the_watch_readable() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let node = Node::with_eight_gpus().unwrap();
    let options = watch::Options::default().with_interval(Duration::from_millis(20));
    let mut watch = Watch::open(&Root::open(node.root()).unwrap(), options).unwrap();
    while watch.next().is_some() {}
    for tick in 0..10 {
        let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&watch.fd(), PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "tick {tick}");
        assert_eq!(watch.next(), None);
    }
}

#[test]
fn refresh_reads_no_record_of_a_device_that_stayed_bound() {
    let node = Node::with_eight_gpus().unwrap();
    let root = Root::open(node.root()).unwrap();
    let prober = Arc::new(Prober::new(root.clone()));
    let options = Options { probe: false, ..Options::default() };
    let mut monitor = Monitor::new(root, prober, options).unwrap();
    let start = Instant::now();
    let reads_of = |monitor: &mut Monitor, after: u64| {
        let mut changes = Vec::new();
        let before = reads();
        monitor.pass(start + Duration::from_secs(after), &mut changes).unwrap();
        (reads() - before, changes.len())
    };
    let own = {
        let before = reads();
        reads() - before
    };
    reads_of(&mut monitor, 0);
    let (pass, _) = reads_of(&mut monitor, 1);
    assert_eq!(pass - own, 8, "one for each group");
    assert_eq!(reads_of(&mut monitor, 31), (pass, 0), "a refresh reads no file more");
    let (all, changes) = reads_of(&mut monitor, 301);
    assert_eq!((all > pass, changes), (true, 0), "from time to time, records are read");
    // A record that is wrong is read again at once after an event of the kernel.
    node.write("sys/bus/pci/devices/0000:1b:00.0/numa_node", "7\n").unwrap();
    assert_eq!(reads_of(&mut monitor, 332), (pass, 0));
    monitor.invalidate(None, start);
    assert_eq!(reads_of(&mut monitor, 333).1, 1);
}
