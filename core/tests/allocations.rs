//! Once warm, a repeated scan, peek and pass takes nothing from the heap.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use allocation_counter::measure;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_probe::device::Detail;
use vfio_probe::monitor::Options;
use vfio_probe::{Buffer, GroupId, Monitor, Prober, Root};
use vfio_sim_node::{Node, VmSpec};

#[test]
fn the_counter_counts() {
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
fn a_pass_without_news_allocates_nothing() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&["0000:1b:00.0"])).unwrap();
    let root = Arc::new(Root::open(node.root()).unwrap());
    let prober = Arc::new(Prober::new(Arc::clone(&root)));
    let mut monitor = Monitor::new(root, prober, Options::default()).unwrap();
    let mut changes = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !monitor.initial_probes_done() {
        assert!(Instant::now() < deadline, "no answers");
        monitor.pass(Instant::now(), &mut changes).unwrap();
    }
    // Two lists of entries take turns from the second pass on; the answers may have been there after the first.
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
