//! Faults of the host: its IOMMU, drivers, device nodes, vGPUs, and the directory of CDI specs.

use crate::common::{PATIENCE, Serve, cdi_dir, expect, kubelet, program, write_pools};
use crate::{GPU, examine, examine_with, has};
use std::process::Command;
use std::time::Instant;
use vfio_sim_node::{Function, Node, trees};

#[test]
fn unprepared_host_gets_advice_for_each_fault() {
    let node = Node::new().unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken host: there are no IOMMU groups: the IOMMU is off", "intel_iommu=on");
    has(
        &findings,
        "warning selection: no selected device is bound",
        "driverctl set-override ADDRESS vfio-pci",
    );

    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::gpu("0000:f1:00.0", 90, 0)).unwrap();
    node.add(Function { driver: Some("snd_hda_intel".into()), ..Function::new("0000:f1:00.1", 90) }).unwrap();
    node.add(Function::gpu("0000:f3:00.0", 92, 0).with_driver(Some("nouveau"))).unwrap();
    node.add(Function::gpu("0000:f4:00.0", 93, 0).with_driver(None)).unwrap();
    node.write("sys/devices/pci0000:00/0000:4e:00.0/uevent", "").unwrap();
    node.delete("dev/vfio/vfio").unwrap();
    node.delete("dev/vfio/52").unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 1, "{findings:#?}");
    has(
        &findings,
        "warning 0000:f1:00.0: group 90 is not viable: 0000:f1:00.1 is bound to snd_hda_intel",
        "driverctl set-override 0000:f1:00.1 vfio-pci",
    );
    has(&findings, "warning 0000:f3:00.0: is selected, but bound to nouveau", "0000:f3:00.0 vfio-pci");
    has(&findings, "warning 0000:f4:00.0: is selected, but bound to no driver", "0000:f4:00.0 vfio-pci");
    has(&findings, "warning sysfs: 0000:4e:00.0: uevent", "left out");
    has(&findings, "warning /dev/vfio/vfio: does not exist", "Load the module");
    has(&findings, "warning 0000:3d:00.0: /dev/vfio/52 does not exist", "Bind the device again");
    has(&findings, "there is no kubelet.sock", "--kubelet-dir");
    has(&findings, "warning serve: no serve answers", "Start serve");
    std::fs::rename(node.root().join("dev/vfio/53"), node.root().join("dev/vfio/noiommu-53")).unwrap();
    node.write(
        "sys/devices/pci0000:00/0000:4e:00.0/uevent",
        "DRIVER=vfio-pci\nPCI_CLASS=30200\nPCI_ID=10DE:2330\n",
    )
    .unwrap();
    has(&examine(&node).1, "0000:4e:00.0: is used without an IOMMU", "turn on the IOMMU");
    std::fs::rename(node.root().join("dev/vfio"), node.root().join("dev/elsewhere")).unwrap();
    has(&examine(&node).1, "warning /dev/vfio: does not exist here", "mount the host's /dev/vfio");
}

#[test]
fn denied_device_node_is_reported_without_opening_it() {
    let node = Node::with_eight_gpus().unwrap();
    let no_access = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(node.root().join("dev/vfio/51"), no_access).unwrap();
    let mut doctor = program(&node, &["doctor", "--json"]);
    if rustix::process::geteuid().is_root() {
        // Root opens it despite the mode while it has this capability.
        let mut without = Command::new("setpriv");
        without.args(["--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all", "--"]);
        without.arg(doctor.get_program()).args(doctor.get_args());
        doctor = without;
    }
    let (_, findings) = examine_with(&mut doctor);
    has(&findings, "warning 0000:1b:00.0: /dev/vfio/51 cannot be opened from here", "--no-probe");
    assert!(!findings.iter().any(|(what, _)| what.contains("/dev/vfio/52")), "{findings:#?}");
    assert_eq!((node.opens(51), node.opens(52)), (0, 0));
}

#[tokio::test]
async fn missing_probes_for_mediated_devices_are_reported() {
    let node = trees::by_name("mediated devices").unwrap().node;
    let what = "only a probe can detect its holders, and probes are off";
    let (_, findings) = examine_with(&mut program(&node, &["doctor", "--json", "--no-probe"]));
    has(&findings, what, "Run without --no-probe");
    let (_, findings) = examine(&node);
    assert!(!findings.iter().any(|(found, _)| found.contains(what)), "{findings:#?}");
}

#[test]
fn no_advice_to_rebind_functions_that_carry_vgpus() {
    let findings = |name: &str| examine(&trees::by_name(name).unwrap().node).1;
    let bound = |findings: &[(String, String)]| {
        findings
            .iter()
            .any(|(found, todo)| found.contains("bound to nvidia") || todo.contains("set-override"))
    };
    let of_mdevs = findings("mediated devices");
    assert!(!bound(&of_mdevs), "{of_mdevs:#?}");
    let tree = trees::by_name("virtual functions with a vGPU and without").unwrap();
    let (_, of_functions) = examine(&tree.node);
    assert!(!bound(&of_functions), "{of_functions:#?}");
    let without = "0000:1b:00.3: is selected, but has no vGPU";
    has(&of_functions, &format!("warning {without}"), "creatable_vgpu_types");
    assert_eq!(of_functions.iter().filter(|(what, _)| what.contains("has no vGPU")).count(), 1);
    // The other vGPUs leave no room for one more.
    let types = "sys/bus/pci/devices/0000:1b:00.3/nvidia/creatable_vgpu_types";
    tree.node.write(types, "ID    : vGPU Name\n").unwrap();
    let (_, findings) = examine(&tree.node);
    assert!(!findings.iter().any(|(what, _)| what.contains(without)), "{findings:#?}");
}

#[tokio::test]
async fn unwritable_cdi_spec_is_reported_with_its_devices() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    std::fs::create_dir(node.root().join("var/run")).unwrap();
    node.write("var/run/cdi", "").unwrap();
    let text = format!("pools: [{{resource: a.b/c, cdi: devices, select: [{{address: \"{GPU}\"}}]}}]");
    let file = write_pools(&node, &text);
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "one", |state| state.capacity("a.b/c").allocatable == 1).await;
    let doctor = || examine_with(&mut program(&node, &["doctor", "--json", "--pools", &file]));
    let what = format!("vfio-device-plugin_a.b_c.json: is not a readable CDI spec; it should name {GPU}");
    let (code, findings) = doctor();
    has(&findings, &what, "device nodes only");
    assert_eq!(code, 1);
    std::fs::remove_file(cdi_dir(&node)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while doctor().1.iter().any(|(what, _)| what.contains("CDI spec")) {
        assert!(Instant::now() < deadline, "{:?}", doctor());
    }
    let spec = cdi_dir(&node).join("vfio-device-plugin_a.b_c.json");
    assert!(spec.exists());
}
