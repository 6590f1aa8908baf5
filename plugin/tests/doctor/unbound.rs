//! Selected functions and group members that are not bound to VFIO: `doctor` names the cause, and advises nothing that harms.

use crate::common::{program, write_pools};
use crate::{examine, examine_with, has};
use std::os::unix::fs::symlink;
use vfio_sim_node::{Function, Node};

/// Returns a node with eight GPUs and more functions of NVIDIA's display class, which the default selection selects.
pub(crate) fn node_with(functions: &[(&str, u32, Option<&str>)]) -> Node {
    let node = Node::with_eight_gpus().unwrap();
    for (address, group, driver) in functions {
        node.add(Function::gpu(address, *group, 0).with_driver(*driver)).unwrap();
    }
    // The mounts of a host without any disk of the node.
    procs(&node, "24 1 0:22 / / rw - rootfs rootfs rw\n");
    node
}

/// Writes the mounts of the host's init, and no swap space.
pub(crate) fn procs(node: &Node, mountinfo: &str) {
    std::fs::create_dir_all(node.root().join("proc/1/net")).unwrap();
    node.write("proc/1/mountinfo", mountinfo).unwrap();
    node.write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n").unwrap();
}

pub(crate) fn set_override(node: &Node, address: &str, driver: &str) {
    node.write(&format!("sys/bus/pci/devices/{address}/driver_override"), format!("{driver}\n")).unwrap();
}

/// Writes files below a function's directory.
pub(crate) fn below(node: &Node, address: &str, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = node.root().join("sys/bus/pci/devices").join(address).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// Returns the findings about one function or driver.
pub(crate) fn about(node: &Node, about: &str) -> Vec<(String, String)> {
    let (_, findings) = examine(node);
    findings.into_iter().filter(|(what, _)| what.contains(&format!("warning {about}: "))).collect()
}

#[test]
fn override_without_its_driver_is_reported_once() {
    let node = node_with(&[("0000:f1:00.0", 90, None), ("0000:f2:00.0", 91, None)]);
    set_override(&node, "0000:f1:00.0", "vfio_other_pci");
    set_override(&node, "0000:f2:00.0", "vfio_other_pci");
    let (_, findings) = examine(&node);
    has(
        &findings,
        "warning vfio_other_pci: is not loaded, and driver_override names it for 0000:f1:00.0, 0000:f2:00.0",
        "Run `modprobe vfio_other_pci`",
    );
    assert!(!findings.iter().any(|(_, todo)| todo.contains("driverctl")), "{findings:#?}");
    assert_eq!(findings.iter().filter(|(_, todo)| todo.contains("modprobe vfio_other_pci")).count(), 1);
    // The case: no function of the host is bound, and vfio-pci is not loaded.
    let node = Node::new().unwrap();
    procs(&node, "");
    for (address, group) in [("0000:f1:00.0", 90), ("0000:f2:00.0", 91)] {
        node.add(Function::gpu(address, group, 0).with_driver(None)).unwrap();
        set_override(&node, address, "vfio-pci");
    }
    node.delete("sys/bus/pci/drivers/vfio-pci").unwrap();
    let (_, findings) = examine(&node);
    has(&findings, "warning vfio-pci: is not loaded", "modprobe vfio-pci");
    has(&findings, "no selected device is bound to a VFIO driver", "say why");
    assert!(!findings.iter().any(|(_, todo)| todo.contains("driverctl")), "{findings:#?}");
}

#[test]
fn override_without_effect_differs_from_a_failed_probe() {
    let node = node_with(&[("0000:f1:00.0", 90, None), ("0000:f2:00.0", 91, Some("nouveau"))]);
    set_override(&node, "0000:f1:00.0", "vfio-pci");
    set_override(&node, "0000:f2:00.0", "vfio-pci");
    has(
        &about(&node, "0000:f1:00.0"),
        "driver_override is vfio-pci, but it is bound to no driver: the probe failed or was not made",
        "echo 0000:f1:00.0 > /sys/bus/pci/drivers_probe`; if it stays without a driver, dmesg",
    );
    has(
        &about(&node, "0000:f2:00.0"),
        "driver_override is vfio-pci, but it is bound to nouveau",
        "echo 0000:f2:00.0 > /sys/bus/pci/drivers/nouveau/unbind",
    );
    // The name of the module, which no driver has.
    set_override(&node, "0000:f1:00.0", "vfio_pci");
    let findings = about(&node, "0000:f1:00.0");
    has(&findings, "bound to no driver (driver_override is vfio_pci)", "set-override 0000:f1:00.0 vfio-pci");
    // sysfs's text for an override that is not set.
    set_override(&node, "0000:f2:00.0", "(null)");
    has(
        &about(&node, "0000:f2:00.0"),
        "is selected, but bound to nouveau",
        "driverctl set-override 0000:f2:00.0",
    );
}

#[test]
fn missing_group_differs_from_an_iommu_that_is_off() {
    let node = node_with(&[]);
    for address in ["0000:f1:00.0", "10000:e1:00.0"] {
        node.add(Function { group: None, ..Function::gpu(address, 0, 0).with_driver(None) }).unwrap();
        set_override(&node, address, "vfio-pci");
    }
    has(
        &about(&node, "0000:f1:00.0"),
        "has no IOMMU group, while other functions have one",
        "Look in the firmware",
    );
    has(&about(&node, "10000:e1:00.0"), "behind a VMD controller and has no IOMMU group", "Turn VMD off");
    let node = Node::new().unwrap();
    procs(&node, "");
    node.add(Function { group: None, ..Function::gpu("0000:f1:00.0", 0, 0).with_driver(None) }).unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken host: there are no IOMMU groups", "intel_iommu=on");
    has(
        &findings,
        "0000:f1:00.0: is selected, but no function of the host has an IOMMU group",
        "Turn on the IOMMU",
    );
    assert!(!findings.iter().any(|(_, todo)| todo.contains("driverctl")), "{findings:#?}");
}

#[test]
fn bridge_is_reported_only_if_it_was_named() {
    let node = node_with(&[]);
    let bridge = "0000:f1:00.0";
    node.add(Function { class: 0x06_0400, ..Function::gpu(bridge, 90, 0).with_driver(Some("pcieport")) })
        .unwrap();
    let doctor = |pools: &str| {
        let file = write_pools(&node, pools);
        examine_with(&mut program(&node, &["doctor", "--json", "--pools", &file])).1
    };
    let findings = doctor(&format!("pools: [{{resource: a.b/c, select: [{{address: \"{bridge}\"}}]}}]"));
    has(&findings, &format!("{bridge}: is selected, but a bridge: vfio-pci refuses bridges"), "Leave it out");
    let findings = doctor("pools: [{resource: a.b/c, select: [{vendor: \"10de\"}]}]");
    assert!(!findings.iter().any(|(what, _)| what.contains(bridge)), "{findings:#?}");
}

#[test]
fn every_member_that_offends_is_named_with_its_own_advice() {
    let node = node_with(&[("0000:f1:00.0", 90, Some("vfio-pci"))]);
    let member = |address: &str, class: u32, driver: &str| {
        node.add(Function { class, driver: Some(driver.into()), ..Function::new(address, 90) }).unwrap();
    };
    member("0000:f1:00.1", 0x04_0300, "snd_hda_intel");
    member("0000:f1:00.2", 0x06_0400, "shpchp");
    member("0000:f1:00.3", 0x01_0400, "vmd");
    member("0000:f1:00.4", 0x02_0000, "e1000e");
    member("0000:f1:00.5", 0x01_0802, "nvme");
    member("0000:f1:00.6", 0x06_0400, "pcieport");
    member("0000:f1:00.7", 0x06_0100, "lpc_ich");
    member("0000:f1:01.0", 0x06_0700, "yenta_cardbus");
    member("0000:f1:01.1", 0x02_0000, "ixgbe");
    below(&node, "0000:f1:01.1", &[("sriov_numvfs", "4\n")]);
    below(&node, "0000:f1:00.4", &[("net/eno1/operstate", "up\n")]);
    below(
        &node,
        "0000:f1:00.5",
        &[("nvme/nvme0/nvme0n1/dev", "259:0\n"), ("nvme/nvme0/nvme0n1/size", "9\n")],
    );
    procs(&node, "24 1 259:0 / /data rw - ext4 /dev/nvme0n1 rw\n");
    // A member that is no PCI function.
    let other = node.root().join("sys/devices/platform/NVDA0815:00");
    std::fs::create_dir_all(&other).unwrap();
    symlink("../../../bus/platform/drivers/tegra", other.join("driver")).unwrap();
    symlink(
        "../../../../devices/platform/NVDA0815:00",
        node.root().join("sys/kernel/iommu_groups/90/devices/NVDA0815:00"),
    )
    .unwrap();
    let findings = about(&node, "0000:f1:00.0");
    let (what, advice) = &findings[0];
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let expected = "group 90 is not viable: 0000:f1:00.1 is bound to snd_hda_intel, 0000:f1:00.2 is bound to shpchp, \
                    0000:f1:00.3 is bound to vmd, 0000:f1:00.4 is bound to e1000e, 0000:f1:00.5 is bound to nvme, \
                    0000:f1:00.7 is bound to lpc_ich, 0000:f1:01.0 is bound to yenta_cardbus, 0000:f1:01.1 is bound to ixgbe, \
                    NVDA0815:00 is bound to tegra";
    assert!(what.ends_with(expected), "{what}");
    for part in [
        "Run `driverctl set-override 0000:f1:00.1 vfio-pci` (or `none`).",
        "0000:f1:00.2 is a bridge: vfio-pci refuses bridges",
        "0000:f1:00.3 is the parent of other PCI functions, as a VMD controller is: do not bind it",
        "Do not bind 0000:f1:00.4 to vfio-pci: the host needs it (interface eno1 (up, the only one that is up))",
        "The host uses 0000:f1:00.5 (disk nvme0n1 (mounted at /data))",
        "Do not bind 0000:f1:00.7 to vfio-pci: the host needs it (part of the chipset)",
        "0000:f1:01.0 is a bridge: vfio-pci refuses bridges",
        "The host uses 0000:f1:01.1 (4 enabled virtual functions)",
        "NVDA0815:00 is no PCI function",
    ] {
        assert!(advice.contains(part), "{part:?} is missing in {advice}");
    }
    assert!(
        !advice.contains(" set-override 0000:f1:00.2") && !advice.contains(" set-override 0000:f1:00.4"),
        "{advice}"
    );
}
