//! Scans bound devices from both sources, and trees that no kernel would create.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, Device, Error, GroupId, Kind, Root, Sriov, Viability};
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Node};

fn scan(root: &Path) -> (Vec<Device>, Vec<Error>) {
    let root = Root::open(root).unwrap();
    let (mut devices, mut errors) = (Vec::new(), Vec::new());
    root.scan(Detail::Full, &mut Buffer::new(), |device| match device {
        Ok(device) => devices.push(device),
        Err(error) => errors.push(error),
    })
    .unwrap();
    devices.sort_by_key(|device| device.id);
    (devices, errors)
}

#[test]
fn record_of_a_device_is_complete() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function { sriov_numvfs: Some(4), ..Function::gpu("0000:f1:00.0", 90, -1) }).unwrap();
    node.add(Function { physfn: Some("0000:f1:00.0".into()), ..Function::gpu("0000:f1:00.1", 91, -1) })
        .unwrap();
    let (devices, errors) = scan(node.root());
    assert_eq!((devices.len(), errors.len()), (10, 0));
    let gpu = &devices[0];
    assert_eq!(gpu.id.to_string(), "0000:1b:00.0");
    assert_eq!((gpu.vendor, gpu.device, gpu.class), (0x10de, 0x2330, 0x03_0200));
    assert_eq!((gpu.subsystem_vendor, gpu.subsystem_device), (0x10de, 0x16c1));
    assert_eq!(gpu.driver.unwrap().as_str(), "vfio-pci");
    assert_eq!((gpu.group, gpu.numa_node), (Some(GroupId(51)), Some(0)));
    assert_eq!((gpu.kind, gpu.sriov, gpu.vgpu_type, gpu.parent), (Kind::Pci, Sriov::None, None, None));
    assert!(gpu.cdev.is_some());
    assert_eq!((devices[8].numa_node, devices[8].sriov), (None, Sriov::Physical(4)));
    assert_eq!((devices[9].sriov, devices[9].parent), (Sriov::Virtual, devices[8].id.pci()));
}

#[test]
fn kernel_without_the_class_is_scanned_by_driver() {
    let fill = |node: Node| {
        node.add(Function::gpu("0000:01:00.0", 1, 0)).unwrap();
        node.add(Function::gpu("0000:02:00.0", 2, 0).with_driver(Some("nvgrace_gpu_vfio_pci"))).unwrap();
        node.add(Function::gpu("0000:03:00.0", 3, 0).with_driver(Some("nouveau"))).unwrap();
        node.add(Function::new("0000:04:00.0", 4)).unwrap();
        node
    };
    let with = scan(fill(Node::new().unwrap()).root());
    let without = scan(fill(Node::new().unwrap().without_vfio_class().unwrap()).root());
    assert_eq!(with.0.len(), 2);
    assert!(with.1.is_empty() && without.1.is_empty(), "{with:?} {without:?}");
    let without_cdev = |mut device: Device| {
        device.cdev = None;
        device
    };
    let same: Vec<Device> = with.0.iter().map(|device| without_cdev(*device)).collect();
    assert_eq!(same, without.0);
}

#[test]
fn unbound_functions_are_not_read() {
    let node = Node::with_eight_gpus().unwrap();
    let before = scan(node.root());
    node.add_unbound_functions(500).unwrap();
    // The directory of all functions is not even listed.
    node.delete("sys/bus/pci/devices").unwrap();
    symlink("../../devices/pci0000:00", node.root().join("sys/bus/pci/devices")).unwrap();
    assert_eq!(scan(node.root()).0, before.0);
}

#[test]
fn mediated_device_has_the_ids_of_its_parent() {
    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    for class in [true, false] {
        let node = Node::with_eight_gpus().unwrap();
        node.add_mdev(&Mdev {
            uuid: UUID.to_owned(),
            parent: "0000:1b:00.0".to_owned(),
            kind: "nvidia-35".to_owned(),
            group: 70,
            cdev: class.then_some(20),
        })
        .unwrap();
        if !class {
            node.delete("sys/class/vfio-dev").unwrap();
        }
        let (devices, errors) = scan(node.root());
        let mdev = devices.iter().find(|device| device.kind == Kind::Mdev).unwrap_or_else(|| {
            unreachable!("{errors:?} {devices:?}");
        });
        assert_eq!(mdev.id.to_string(), UUID);
        assert_eq!((mdev.vendor, mdev.device, mdev.numa_node), (0x10de, 0x2330, Some(0)));
        assert_eq!(mdev.vgpu_type.unwrap().as_str(), "nvidia-35");
        let root = Root::open(node.root()).unwrap();
        let named = |name: &[u8]| {
            node.write("sys/devices/pci0000:00/0000:1b:00.0/mdev_supported_types/nvidia-35/name", name)
                .unwrap();
            root.vgpu_type_name(mdev).map(|name| name.map(|name| name.to_string()))
        };
        assert_eq!(root.vgpu_type_name(mdev), Ok(None));
        assert_eq!(named(b"GRID T4-1Q\n"), Ok(Some("GRID T4-1Q".to_owned())));
        assert_eq!(named(b"\n"), Ok(None));
        assert!(named(b"\xff\n").is_err() && named(&[b'x'; 65]).is_err());
        assert_eq!((mdev.group, mdev.cdev), (Some(GroupId(70)), class.then_some(20)));
        assert_eq!(mdev.parent.unwrap().to_string(), "0000:1b:00.0");
    }
}

#[test]
fn malformed_entry_is_one_error_and_hides_no_device() {
    let node = Node::with_eight_gpus().unwrap();
    let class = node.root().join("sys/class/vfio-dev");
    symlink("../../devices/pci0000:00/0000:1b:00.0/vfio-dev/vfiox", class.join("vfiox")).unwrap();
    symlink("loop", class.join("loop")).unwrap();
    symlink("vfio99", class.join("vfio99")).unwrap();
    symlink("../../devices/pci0000:00/nonsense/vfio-dev/vfio98", class.join("vfio98")).unwrap();
    fs::write(class.join("vfio97"), "no link").unwrap();
    fs::create_dir(class.join("vfio4294967296")).unwrap();
    fs::write(class.join("x".repeat(255)), "").unwrap();
    let odd = std::ffi::OsStr::new("vfio\u{fffd}");
    fs::write(class.join(odd), "").unwrap();
    let devices = "sys/bus/pci/devices";
    node.write(&format!("{devices}/0000:1b:00.0/uevent"), [0xff; 5000]).unwrap();
    node.write(&format!("{devices}/0000:3d:00.0/uevent"), "PCI_ID=zz:1\nPCI_CLASS=\nDRIVER\n").unwrap();
    node.replace_by_fifo(&format!("{devices}/0000:4e:00.0/uevent")).unwrap();
    node.make_unreadable(&format!("{devices}/0000:5f:00.0/uevent")).unwrap();
    node.delete(&format!("{devices}/0000:9b:00.0/iommu_group")).unwrap();
    symlink("../../../kernel/iommu_groups/none", node.root().join(devices).join("0000:9b:00.0/iommu_group"))
        .unwrap();
    node.write(&format!("{devices}/0000:bd:00.0/numa_node"), "everywhere\n").unwrap();
    let (found, errors) = scan(node.root());
    let whole: Vec<String> = found.iter().map(|device| device.id.to_string()).collect();
    assert!(whole.ends_with(&["0000:ce:00.0".to_owned(), "0000:df:00.0".to_owned()]), "{whole:?}");
    for culprit in ["vfiox", "loop", "vfio99", "vfio98", "vfio97", "vfio4294967296", "xxx"] {
        assert!(
            errors
                .iter()
                .any(|error| error.entry().is_some_and(|entry| entry.to_string_lossy().starts_with(culprit))),
            "{culprit}: {errors:#?}"
        );
    }
    for address in
        ["0000:1b:00.0", "0000:3d:00.0", "0000:4e:00.0", "0000:5f:00.0", "0000:9b:00.0", "0000:bd:00.0"]
    {
        let id = address.parse().unwrap();
        let count = errors.iter().filter(|error| error.device == Some(id)).count();
        assert_eq!(count, 1, "{address}: {errors:#?}");
    }
}

#[test]
fn tree_without_any_source_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    let root = Root::open(empty.path()).unwrap();
    let error = root.scan(Detail::Full, &mut Buffer::new(), |_| {}).unwrap_err();
    assert!(error.to_string().contains("sys/bus/pci/drivers"), "{error}");
}

#[test]
fn offending_function_is_named() {
    let node = Node::new().unwrap();
    node.add(Function::gpu("0000:01:00.0", 1, 0)).unwrap();
    node.add(Function { driver: Some("pcieport".into()), ..Function::new("0000:01:00.1", 1) }).unwrap();
    let root = Root::open(node.root()).unwrap();
    let viability = || {
        let mut members = Vec::new();
        root.members(GroupId(1), &mut Buffer::new(), |member| members.push(member.unwrap())).unwrap();
        members.sort_by_key(|member| member.name.as_str().to_owned());
        let whole = root.group(GroupId(1), &mut Buffer::new()).unwrap();
        assert_eq!((whole.members as usize, whole.unreadable), (members.len(), 0));
        assert_eq!(whole.viability, Viability::of(&members));
        Viability::of(&members)
    };
    assert_eq!(viability(), Viability::Viable);
    node.add(Function { driver: Some("snd_hda_intel".into()), ..Function::new("0000:01:00.2", 1) }).unwrap();
    let Viability::NotViable { member, driver } = viability() else { unreachable!("viable") };
    assert_eq!((member.as_str(), driver.as_str()), ("0000:01:00.2", "snd_hda_intel"));
}

#[test]
fn driver_of_a_member_is_read_from_its_group() {
    let node = Node::new().unwrap();
    node.add(Function::gpu("0000:01:00.0", 1, 0)).unwrap();
    node.add(Function::gpu("0000:02:00.0", 2, 0)).unwrap();
    let root = Root::open(node.root()).unwrap();
    let driver = |group, address: &str| {
        root.driver_in(GroupId(group), address.parse().unwrap()).unwrap().map(|driver| driver.to_string())
    };
    assert_eq!(driver(1, "0000:01:00.0").as_deref(), Some("vfio-pci"));
    assert_eq!(driver(2, "0000:01:00.0"), None, "a member of another group");
    node.unbind("0000:01:00.0").unwrap();
    assert_eq!(driver(1, "0000:01:00.0"), None);
}
