//! `who` on simulated nodes: it accepts the names that tools print, and distinguishes what does not exist from what is free.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::run;
use serde_json::Value;
use vfio_sim_node::{Function, Node, VmSpec, trees};

const GPU: &str = "0000:1b:00.0";

#[test]
fn holder_is_found_by_every_name_of_its_device() {
    let node = Node::with_eight_gpus().unwrap();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let entry = std::fs::read_dir(node.root().join("sys/bus/pci/devices").join(GPU).join("vfio-dev"));
    let cdev = entry.unwrap().flatten().next().unwrap().file_name().into_string().unwrap();
    let cdev_path = format!("/dev/vfio/devices/{cdev}");
    for target in [
        GPU,
        "0000:1B:00.0",
        "1b:00.0",
        " 1b:00.0 ",
        "51",
        "/dev/vfio/51",
        "/dev/vfio/noiommu-51",
        "noiommu-51",
        "host=0000:1b:00.0",
        "vfio-pci,host=1b:00.0,id=hostdev0",
        &cdev,
        &cdev_path,
    ] {
        let (code, out, errors) = run(&node, &["who", target, "--json"]);
        assert_eq!(code, 0, "{target:?}: {errors}");
        let who: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&who["iommu_group"], &who["holders"][0]["pid"]), (&51.into(), &vm.pid().into()), "{who}");
    }
    let (code, out, _) = run(&node, &["who", "52"]);
    assert_eq!((code, out.contains("Found no process that holds group 52")), (1, true), "{out}");
}

#[test]
fn what_does_not_exist_is_not_reported_as_free() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function { group: None, ..Function::new("0000:f1:00.0", 0) }).unwrap();
    for (target, expected) in [
        (
            "0000:77:00.0",
            "no such PCI function 0000:77:00.0: /sys/bus/pci/devices/0000:77:00.0 does not exist",
        ),
        ("77:00.0", "no such PCI function 77:00.0: /sys/bus/pci/devices has it in no domain"),
        ("4711", "no such IOMMU group 4711"),
        ("/dev/vfio/4711", "no such IOMMU group 4711"),
        ("vfio4711", "no such device node /dev/vfio/devices/vfio4711"),
        ("4b5a1c7e-5b0a-4a57-9d3a-0123456789ab", "no such mediated device 4b5a1c7e"),
        ("f1:00.0", "0000:f1:00.0 has no IOMMU group"),
    ] {
        let (code, out, errors) = run(&node, &["who", target]);
        assert_eq!((code, out.as_str()), (2, ""), "{target}: {errors}");
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{target}: {errors}");
    }
}

#[test]
fn short_address_is_accepted_only_if_unambiguous() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::new("0001:1b:00.0", 90)).unwrap();
    node.add(Function::new("0001:1c:00.0", 91)).unwrap();
    let (code, _, errors) = run(&node, &["who", "1b:00.0"]);
    assert_eq!(code, 64, "{errors}");
    assert!(errors.contains("ambiguous, give the domain: 0000:1b:00.0, 0001:1b:00.0"), "{errors}");
    let (code, out, _) = run(&node, &["who", "1c:00.0"]);
    assert_eq!(code, 1);
    assert!(out.contains("group 91"), "{out}");
}

#[test]
fn wrong_name_is_wrong_usage() {
    let node = Node::with_eight_gpus().unwrap();
    for (target, expected) in [
        ("nonsense", "expected a PCI address"),
        ("", "expected a PCI address"),
        ("1b:00", "expected a PCI address"),
        ("/dev/vfio/vfio", "every VM opens this device node"),
        ("a\u{1b}[2Jb", r#""a\u{1b}[2Jb""#),
    ] {
        let (code, out, errors) = run(&node, &["who", target]);
        assert_eq!((code, out.as_str()), (64, ""), "{target:?}: {errors}");
        assert!(errors.contains(expected), "{target:?}: {errors}");
    }
    let (code, _, errors) = run(&node, &["who"]);
    assert_eq!(code, 64, "{errors}");
}

#[test]
fn mediated_device_is_found_by_its_uuid() {
    let node = trees::by_name("mediated devices").unwrap().node;
    let entries = std::fs::read_dir(node.root().join("sys/bus/mdev/devices")).unwrap();
    let uuid = entries.flatten().next().unwrap().file_name().into_string().unwrap();
    for target in [uuid.clone(), uuid.to_uppercase(), format!("/sys/bus/mdev/devices/{uuid}")] {
        let (code, _, errors) = run(&node, &["who", &target]);
        assert_eq!(code, 1, "{target}: {errors}");
    }
}

#[test]
fn unreadable_process_makes_the_answer_unknown() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    // A process that cannot be read may be the holder: unknown is not no.
    let process = node.root().join("proc/4711");
    std::fs::create_dir(&process).unwrap();
    std::fs::write(process.join("fd"), "").unwrap();
    let (code, out, _) = run(&node, &["who", "52"]);
    assert!(code == 3 && out.contains("1 of 3 processes could not be read"), "{code} {out}");
    assert_eq!(run(&node, &["who", "51"]).0, 0, "the holder was found");
}
