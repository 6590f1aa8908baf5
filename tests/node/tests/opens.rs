//! Counts opens one by one, in a test binary of its own: a fork in another test would keep a descriptor open until the
//! exec, so that two opens count as one.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use rustix::fs::{Mode, OFlags};
use vfio_sim_node::{Function, Node, VmSpec};

const GPU: &str = "0000:3b:00.0";

#[test]
fn consecutive_opens_are_counted_one_by_one() {
    let node = Node::new().unwrap();
    node.add(Function::gpu(GPU, 51, 0)).unwrap();
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = || rustix::fs::open(node.root().join("dev/vfio/51"), flags, Mode::empty()).unwrap();
    for _ in 0..100 {
        drop(open());
    }
    assert_eq!(node.opens(51), 100);
    drop(open());
    node.start_vm(&VmSpec::foreign(&[GPU])).unwrap().kill();
    drop(open());
    assert_eq!(node.opens(51), 102);
}
