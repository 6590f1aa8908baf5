//! The simulated node behaves as the kernel does, as far as tests depend on it.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
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
fn held_group_returns_ebusy_until_the_holder_is_killed() {
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
fn group_held_without_a_device_has_enable_0() {
    let node = node_with_gpu();
    let _vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) }).unwrap();
    assert_eq!(open(&node, 51).unwrap_err(), rustix::io::Errno::BUSY);
    assert_eq!(
        fs::read_to_string(node.root().join("sys/bus/pci/devices").join(GPU).join("enable")).unwrap(),
        "0\n"
    );
}

#[test]
fn vm_is_a_real_process_with_the_group_node_open() {
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
fn unbind_waits_for_the_holder() {
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
fn opens_by_other_processes_are_counted() {
    let node = node_with_gpu();
    assert_eq!(node.opens(51), 0);
    drop(open(&node, 51).unwrap());
    assert_eq!(node.opens(51), 1);
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert!(open(&node, 51).is_err());
    assert_eq!(node.opens(51), 1, "a VM's opens and failed opens do not count");
}

#[test]
fn vm_with_eight_groups_is_their_only_holder() {
    let node = Node::with_eight_gpus().unwrap();
    let all: Vec<String> =
        ["1b", "3d", "4e", "5f", "9b", "bd", "ce", "df"].map(|bus| format!("0000:{bus}:00.0")).into();
    let vm = node.start_vm(&VmSpec::of_pod("u", &all)).unwrap();
    let fds = fs::read_dir(node.root().join(format!("proc/{}/fd", vm.pid()))).unwrap();
    let held: Vec<u64> =
        fds.filter_map(|fd| fs::metadata(fd.ok()?.path()).ok()).map(|fd| fd.rdev()).collect();
    for group in 51..=58 {
        assert_eq!(open(&node, group).unwrap_err(), rustix::io::Errno::BUSY);
        assert!(held.contains(&fs::metadata(node.root().join(format!("dev/vfio/{group}"))).unwrap().rdev()));
    }
    vm.kill();
    for group in 51..=58 {
        drop(open(&node, group).unwrap());
    }
}

#[test]
fn group_is_free_when_the_end_of_a_vm_is_visible() {
    let node = node_with_gpu();
    for _ in 0..20 {
        let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(vm.pid()).unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let killer = std::thread::spawn(move || vm.kill());
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let _ =
            rustix::process::waitid(rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)), ended);
        drop(open(&node, 51).unwrap());
        killer.join().unwrap();
    }
}

#[test]
fn one_of_several_concurrent_vms_gets_the_group() {
    let node = node_with_gpu();
    let start = || node.start_vm(&VmSpec::foreign(&[GPU]));
    let started = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(started.iter().filter(|vm| vm.is_ok()).count(), 1);
}

#[test]
fn teardown_outlasts_the_process_and_can_be_ended() {
    let node = node_with_gpu();
    let slow = |teardown| VmSpec { teardown, ..VmSpec::foreign(&[GPU]) };
    let vm = node.start_vm(&slow(Duration::from_millis(200))).unwrap();
    let stopped = Instant::now();
    vm.stop();
    assert_eq!(open(&node, 51).unwrap_err(), rustix::io::Errno::BUSY);
    vm.kill();
    assert!(stopped.elapsed() >= Duration::from_millis(200));
    drop(open(&node, 51).unwrap());
    drop(node.start_vm(&slow(Duration::from_secs(600))).unwrap());
    drop(open(&node, 51).unwrap());
}

#[test]
fn vm_killed_by_another_process_frees_its_group() {
    let node = node_with_gpu();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(vm.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while node.is_held(51) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(open(&node, 51).unwrap());
}

#[test]
fn sysfs_has_the_shape_of_the_kernels() {
    let node = Node::new().unwrap();
    node.add(Function { sriov_numvfs: Some(2), ..Function::gpu(GPU, 51, 1) }).unwrap();
    let vf = Function { physfn: Some(GPU.into()), ..Function::gpu("0000:3b:00.4", 52, 1) };
    node.add(vf.with_driver(Some("nvidia"))).unwrap();
    node.add(Function::gpu("0000:3d:00.0", 53, 1).with_driver(Some("nvidia"))).unwrap();
    node.add_unbound_functions(20).unwrap();
    let device = format!("sys/bus/pci/devices/{GPU}");
    assert_eq!(
        node.read(&format!("{device}/uevent")).unwrap(),
        "DRIVER=vfio-pci\nPCI_CLASS=30200\nPCI_ID=10DE:2330\nPCI_SUBSYS_ID=10DE:16C1\nPCI_SLOT_NAME=0000:3b:00.0\n\
         MODALIAS=pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00\n"
    );
    let target = |path: &str| fs::canonicalize(node.root().join(path)).unwrap();
    let real = target("sys/devices/pci0000:00/0000:3b:00.0");
    assert_eq!(target(&device), real);
    assert_eq!(target(&format!("sys/bus/pci/drivers/vfio-pci/{GPU}")), real);
    assert_eq!(target(&format!("{device}/iommu_group/devices/{GPU}")), real);
    assert_eq!(target("sys/class/vfio-dev/vfio0/device"), real);
    assert_eq!(target("sys/bus/pci/devices/0000:3b:00.4/physfn"), real);
    assert_eq!(target(&format!("{device}/driver")), target("sys/bus/pci/drivers/vfio-pci"));
    assert!(node.root().join("dev/vfio/52").exists(), "a virtual function bound to the vendor's driver");
    assert!(!node.root().join("dev/vfio/53").exists(), "a GPU bound to the host's driver");
    node.remove(GPU).unwrap();
    assert!(!node.root().join("sys/kernel/iommu_groups/51").exists(), "a group goes with its last member");
}

#[test]
fn add_to_a_removed_directory_says_so() {
    let node = Node::new().unwrap();
    fs::remove_dir_all(node.root()).unwrap();
    let error = node.add(Function::gpu(GPU, 51, 0)).unwrap_err();
    let text = format!("cannot add {GPU} to {}, which another process has removed: ", node.root().display());
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().starts_with(&text), "{error}");
}
