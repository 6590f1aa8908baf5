//! Proves the facts that the crate rests on, with the kernel's own errno.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, GroupId, Occupancy, Root};
use vfio_sim_node::{Hold, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const GROUP: GroupId = GroupId(51);

fn node() -> (Node, Root) {
    let node = Node::with_eight_gpus().unwrap();
    let root = Root::open(node.root()).unwrap();
    (node, root)
}

#[test]
fn missing_node_is_absent_and_not_held() {
    let (node, root) = node();
    node.delete("dev/vfio/51").unwrap();
    let result = root.probe(GROUP);
    assert_eq!(result, Occupancy::Absent);
    assert!(!result.is_held());
}

#[test]
fn node_that_opens_is_free() {
    let (node, root) = node();
    let result = root.probe(GROUP);
    assert_eq!(result, Occupancy::Free);
    assert!(!result.is_held());
    assert_eq!(node.opens(51), 1);
    assert_eq!(root.probe(GROUP), Occupancy::Free, "the first probe closed its descriptor");
}

#[test]
fn only_ebusy_is_held() {
    let (node, root) = node();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert_eq!(root.probe(GROUP), Occupancy::Held);
    assert_eq!(root.probe(GroupId(52)), Occupancy::Free, "another group is not held");
    vm.kill();
    assert_eq!(root.probe(GROUP), Occupancy::Free);
    // A directory instead of the node fails with EISDIR. That is unknown and not held.
    node.delete("dev/vfio/51").unwrap();
    std::fs::create_dir(node.root().join("dev/vfio/51")).unwrap();
    let result = root.probe(GROUP);
    assert_eq!(result.as_str(), "unknown");
    assert!(!result.is_held());
}

#[test]
fn peek_opens_nothing_and_misses_a_group_without_device() {
    let (node, root) = node();
    let mut buffer = Buffer::new();
    assert_eq!(root.peek(GROUP, &mut buffer), Ok(Peek::LooksFree));
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert_eq!(root.peek(GROUP, &mut buffer), Ok(Peek::LooksHeld));
    vm.kill();
    let _vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) }).unwrap();
    assert_eq!(root.peek(GROUP, &mut buffer), Ok(Peek::LooksFree));
    assert_eq!(root.probe(GROUP), Occupancy::Held);
    assert_eq!(node.opens(51), 0);
}

#[test]
fn denied_open_is_unknown_and_not_held() {
    use rustix::process::geteuid;
    let (node, root) = node();
    node.delete("dev/vfio/51").unwrap();
    // Only root may open a file of mode 0, so this thread gives up root.
    let path = node.root().join("dev/vfio/51");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    if geteuid().is_root() {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
    }
    let result = root.probe(GROUP);
    assert_eq!(result, Occupancy::Unknown(vfio_probe::UnknownReason::Denied));
    assert!(!result.is_held());
}
