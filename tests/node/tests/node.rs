//! The node behaves as the kernel does, as far as its users rest on it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use vfio_sim_node::{Function, Hold, Node, VmSpec};

const GPU: &str = "0000:3b:00.0";

fn open(node: &Node, group: u32) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    rustix::fs::open(node.root().join(format!("dev/vfio/{group}")), flags, rustix::fs::Mode::empty())
}

fn node_with_gpu() -> Node {
    let node = Node::new().unwrap();
    node.add(Function::gpu(GPU, 51, 0)).unwrap();
    node
}

#[test]
fn a_held_group_answers_ebusy_and_a_killed_holder_frees_it() {
    let node = node_with_gpu();
    drop(open(&node, 51).unwrap());
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let enable = node.root().join("sys/bus/pci/devices").join(GPU).join("enable");
    assert_eq!(open(&node, 51).unwrap_err(), rustix::io::Errno::BUSY);
    assert_eq!(fs::read_to_string(&enable).unwrap(), "1\n");
    assert_eq!(
        node.start_vm(&VmSpec::foreign(&[GPU])).unwrap_err().raw_os_error(),
        Some(16),
        "as QEMU gets it"
    );
    vm.kill();
    drop(open(&node, 51).unwrap());
    assert_eq!(fs::read_to_string(&enable).unwrap(), "0\n");
}

#[test]
fn a_group_without_device_shows_no_count() {
    let node = node_with_gpu();
    let _vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) }).unwrap();
    assert_eq!(open(&node, 51).unwrap_err(), rustix::io::Errno::BUSY);
    assert_eq!(
        fs::read_to_string(node.root().join("sys/bus/pci/devices").join(GPU).join("enable")).unwrap(),
        "0\n"
    );
}

#[test]
fn a_machine_is_a_real_process_with_the_nodes_number() {
    let node = node_with_gpu();
    let uid = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";
    let vm = node.start_vm(&VmSpec::of_pod(uid, &[GPU.to_owned()])).unwrap();
    let process = node.root().join(format!("proc/{}", vm.pid()));
    let number = fs::metadata(node.root().join("dev/vfio/51")).unwrap().rdev();
    assert_eq!(fs::metadata(process.join("fd/0")).unwrap().rdev(), number);
    assert_eq!(fs::read_to_string(process.join("comm")).unwrap(), "qemu-system-x86\n");
    assert!(fs::read_to_string(process.join("cgroup")).unwrap().contains(&uid.replace('-', "_")));
    let process = process.clone();
    vm.kill();
    assert!(!process.exists());
}

#[test]
fn an_unbind_waits_for_the_holder() {
    let node = node_with_gpu();
    let device = node.root().join("sys/bus/pci/devices").join(GPU);
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    node.unbind(GPU).unwrap();
    assert!(!device.join("driver").exists() && !device.join("vfio-dev").exists());
    assert_eq!(open(&node, 51).unwrap_err(), rustix::io::Errno::BUSY);
    vm.kill();
    assert_eq!(open(&node, 51).unwrap_err(), rustix::io::Errno::NOENT);
    node.bind(GPU, "vfio-pci").unwrap();
    drop(open(&node, 51).unwrap());
    assert!(node.root().join("sys/class/vfio-dev/vfio0").join("../../driver").exists());
}

#[test]
fn others_opens_are_counted() {
    let node = node_with_gpu();
    assert_eq!(node.opens(51), 0);
    drop(open(&node, 51).unwrap());
    assert_eq!(node.opens(51), 1);
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert!(open(&node, 51).is_err());
    assert_eq!(node.opens(51), 1, "neither a machine's opens nor failed ones");
}
