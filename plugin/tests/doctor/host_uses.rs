//! Functions through which the host has disks and interfaces: `doctor` says what would be lost, and never takes away what is vital.

use crate::has;
use crate::unbound::{about, below, node_with, procs, set_override};

#[test]
fn disk_with_a_mounted_filesystem_is_left_alone() {
    let address = "0000:f1:00.0";
    let disk = [
        ("nvme/nvme0/nvme0n1/dev", "259:0\n"),
        ("nvme/nvme0/nvme0n1/size", "1000\n"),
        ("nvme/nvme0/nvme0n1/nvme0n1p1/dev", "259:1\n"),
        ("nvme/nvme0/nvme0n1/nvme0n1p1/size", "10\n"),
        ("nvme/nvme0/nvme0n1/nvme0n1p2/dev", "259:2\n"),
        ("nvme/nvme0/nvme0n1/nvme0n1p2/size", "900\n"),
    ];
    let node = node_with(&[(address, 90, Some("nvme"))]);
    below(&node, address, &disk);
    has(&about(&node, address), "is selected, but bound to nvme", "The host then loses: disk nvme0n1.");
    for (mounts, what, advice) in [
        // The boot disk, by its device number.
        (
            "24 1 259:2 / / rw - ext4 /dev/root rw\n25 24 259:1 / /boot/efi rw - vfat /dev/nvme0n1p1 rw\n",
            "the host needs it: disk nvme0n1 (mounted at /, /boot/efi)",
            "Do not bind it",
        ),
        // btrfs has a number of its own.
        ("24 1 0:30 /@ / rw - btrfs /dev/nvme0n1p2 rw\n", "(mounted at /)", "Do not bind it"),
        (
            "24 1 259:2 / /var/lib/my\\040data rw - xfs /dev/nvme0n1p2 rw\n",
            "the host uses it: disk nvme0n1 (mounted at /var/lib/my data)",
            "or end that use first, and only then",
        ),
    ] {
        procs(&node, mounts);
        let findings = about(&node, address);
        has(&findings, what, advice);
        let binds = findings[0].1.contains("driverctl");
        assert_eq!(binds, !advice.starts_with("Do not"), "{findings:#?}");
    }
    // mountinfo names only one disk of a btrfs.
    procs(&node, "24 1 0:30 /@ / rw - btrfs /dev/sdx1 rw\n");
    for disk in ["sdx1", "nvme0n1p2"] {
        std::fs::create_dir_all(node.root().join("sys/fs/btrfs/a-b/devices").join(disk)).unwrap();
    }
    has(&about(&node, address), "the host needs it: disk nvme0n1 (mounted at /)", "Do not bind it");
    // An override would take the boot disk away at the next boot.
    procs(&node, "24 1 259:2 / / rw - ext4 /dev/root rw\n");
    set_override(&node, address, "vfio-pci");
    has(
        &about(&node, address),
        "the host needs it",
        "Remove its override (`driverctl unset-override 0000:f1:00.0`)",
    );
    set_override(&node, address, "(null)");
    procs(&node, "");
    node.write("proc/swaps", "Filename Type\n/dev/nvme0n1p2 partition 8 0 -2\n").unwrap();
    has(&about(&node, address), "the host uses it: disk nvme0n1 (swap)", "only then");
    procs(&node, "");
    below(&node, address, &[("nvme/nvme0/nvme0n1/nvme0n1p2/holders/dm-3/dev", "253:3\n")]);
    std::fs::create_dir_all(node.root().join("sys/class/block/dm-3/dm")).unwrap();
    node.write("sys/class/block/dm-3/dm/name", "vg0-data\n").unwrap();
    has(&about(&node, address), "disk nvme0n1 (part of vg0-data)", "only then");
    // The root filesystem on LVM on LUKS: only the topmost device is mounted.
    std::fs::create_dir_all(node.root().join("sys/class/block/dm-3/holders/dm-4")).unwrap();
    std::fs::create_dir_all(node.root().join("sys/class/block/dm-4/dm")).unwrap();
    node.write("sys/class/block/dm-4/dm/name", "vg0-root\n").unwrap();
    node.write("sys/class/block/dm-4/dev", "253:4\n").unwrap();
    for mounts in
        ["24 1 253:4 / / rw - ext4 /dev/mapper/x rw\n", "24 1 0:30 /@ / rw - btrfs /dev/mapper/vg0-root rw\n"]
    {
        procs(&node, mounts);
        let findings = about(&node, address);
        has(
            &findings,
            "the host needs it: disk nvme0n1 (mounted at /, part of vg0-data, vg0-root)",
            "Do not bind it",
        );
        assert!(!findings[0].1.contains("driverctl"), "{findings:#?}");
    }
    procs(&node, "");
    node.write("proc/swaps", "Filename Type\n/dev/dm-4 partition 8 0 -2\n").unwrap();
    has(&about(&node, address), "disk nvme0n1 (swap, part of vg0-data, vg0-root)", "only then");
}

#[test]
fn disks_of_pools_and_of_several_devices_are_in_use() {
    let address = "0000:f1:00.0";
    let node = node_with(&[(address, 90, Some("nvme"))]);
    let disk = [
        ("nvme/nvme0/nvme0n1/dev", "259:0\n"),
        ("nvme/nvme0/nvme0n1/size", "1000\n"),
        ("nvme/nvme0/nvme0n1/nvme0n1p1/dev", "259:1\n"),
        ("nvme/nvme0/nvme0n1/nvme0n1p1/size", "10\n"),
    ];
    below(&node, address, &disk);
    // bcachefs names its devices in mountinfo, or in sysfs alone.
    procs(&node, "24 1 0:30 / /data rw - bcachefs /dev/sdx:/dev/nvme0n1p1 rw\n");
    has(&about(&node, address), "the host uses it: disk nvme0n1 (mounted at /data)", "only then");
    procs(&node, "24 1 0:30 / / rw - bcachefs /dev/sdx rw\n");
    for (place, disk) in ["sdx", "nvme0n1p1"].into_iter().enumerate() {
        let directory = node.root().join(format!("sys/fs/bcachefs/a-b/dev-{place}"));
        std::fs::create_dir_all(&directory).unwrap();
        std::os::unix::fs::symlink(format!("../../../../class/block/{disk}"), directory.join("block"))
            .unwrap();
    }
    has(&about(&node, address), "the host needs it: disk nvme0n1 (mounted at /)", "Do not bind it");
    // The journal of another disk's file system.
    procs(&node, "24 1 8:16 / /xfs rw - xfs /dev/sdb rw,logdev=/dev/nvme0n1p1\n");
    has(&about(&node, address), "the host uses it: disk nvme0n1 (mounted at /xfs)", "only then");
    // ZFS names the pool only, and udev knows its members.
    procs(&node, "24 1 0:40 / / rw - zfs rpool/ROOT/os rw\n");
    let may_be = "the host uses it: disk nvme0n1; disk nvme0n1 may be part of the ZFS pool rpool";
    has(&about(&node, address), may_be, "only then");
    std::fs::create_dir_all(node.root().join("run/udev/data")).unwrap();
    node.write("run/udev/data/b259:0", "E:ID_PART_TABLE_TYPE=gpt\n").unwrap();
    node.write("run/udev/data/b259:1", "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=rpool\n").unwrap();
    let expected = "the host needs it: disk nvme0n1 (mounted at /, part of the ZFS pool rpool)";
    has(&about(&node, address), expected, "Do not bind it");
    // A pool without a mount is imported all the same.
    procs(&node, "");
    std::fs::create_dir_all(node.root().join("proc/spl/kstat/zfs/rpool")).unwrap();
    has(&about(&node, address), "the host uses it: disk nvme0n1 (part of the ZFS pool rpool)", "only then");
    node.write("run/udev/data/b259:1", "E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=other\n").unwrap();
    has(&about(&node, address), "bound to nvme", "The host then loses: disk nvme0n1.");
}

#[test]
fn interface_of_a_bridge_or_a_switch_is_in_use() {
    let address = "0000:f1:00.0";
    for upper in ["ovs-system", "br0", "team0", "bond0"] {
        let node = node_with(&[(address, 90, Some("ice"))]);
        below(&node, address, &[("net/ens1/operstate", "down\n"), ("net/ens1/flags", "0x1002\n")]);
        std::fs::create_dir_all(node.root().join("sys/class/net").join(upper)).unwrap();
        let interface = node.root().join("sys/bus/pci/devices").join(address).join("net/ens1");
        std::os::unix::fs::symlink(format!("../../../{upper}"), interface.join("master")).unwrap();
        let expected = format!("the host uses it: interface ens1 (down, part of {upper})");
        has(&about(&node, address), &expected, "only then");
    }
}

#[test]
fn disks_of_multipath_and_scsi_controllers_are_found() {
    let address = "0000:f1:00.0";
    let node = node_with(&[(address, 90, Some("nvme"))]);
    below(&node, address, &[("nvme/nvme3/nvme0c3n1/size", "1000\n"), ("nvme/nvme3/nvme0c3n1/hidden", "1\n")]);
    below(&node, address, &[("nvme/nvme3/nvme0c3n1/dev", "0:0\n")]);
    for (path, number) in [("nvme0n1", "259:4\n"), ("nvme0n1/nvme0n1p1", "259:5\n")] {
        let path = node.root().join("sys/class/block").join(path);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("dev"), number).unwrap();
    }
    procs(&node, "24 1 259:5 / / rw - ext4 /dev/nvme0n1p1 rw\n");
    has(&about(&node, address), "disk nvme0n1 (mounted at /)", "Do not bind it");
    let node = node_with(&[(address, 90, Some("ahci"))]);
    below(
        &node,
        address,
        &[
            ("ata1/host0/target0:0:0/0:0:0:0/block/sda/dev", "8:0\n"),
            ("ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1/dev", "8:1\n"),
            ("ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1/size", "9\n"),
        ],
    );
    procs(&node, "24 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n");
    has(&about(&node, address), "disk sda (mounted at /boot)", "Do not bind it");
    // Without the list of mounts it may be mounted.
    node.delete("proc/1").unwrap();
    node.delete("proc/self").unwrap();
    has(&about(&node, address), "disk sda (the host's mounts cannot be read)", "only then");
}

#[test]
fn interface_that_is_up_is_left_alone() {
    let address = "0000:f1:00.0";
    let node = node_with(&[(address, 90, Some("mlx5_core"))]);
    below(&node, address, &[("net/ens1/operstate", "down\n"), ("net/ens1/flags", "0x1002\n")]);
    has(&about(&node, address), "bound to mlx5_core", "The host then loses: interface ens1 (down).");
    below(&node, address, &[("net/ens1/flags", "0x1003\n")]);
    // Another physical interface is up as well.
    std::fs::create_dir_all(node.root().join("sys/class/net/eno1/device")).unwrap();
    node.write("sys/class/net/eno1/operstate", "up\n").unwrap();
    has(&about(&node, address), "the host uses it: interface ens1 (up)", "only then");
    node.write("sys/class/net/eno1/operstate", "down\n").unwrap();
    has(
        &about(&node, address),
        "the host needs it: interface ens1 (up, the only one that is up)",
        "Do not bind it",
    );
    node.write("sys/class/net/eno1/operstate", "up\n").unwrap();
    // The default route leads through a VLAN on a bond of the interface.
    below(&node, address, &[("net/ens1/upper_bond0/x", ""), ("net/ens1/flags", "0x1803\n")]);
    std::fs::create_dir_all(node.root().join("sys/class/net/bond0/upper_bond0.7")).unwrap();
    let route =
        "Iface\tDestination\tGateway\tFlags\nbond0.7\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    node.write("proc/1/net/route", route).unwrap();
    let expected = "the host needs it: interface ens1 (up, default route, part of bond0, bond0.7)";
    has(&about(&node, address), expected, "Do not bind it");
    // sysfs hides the interfaces of other network namespaces.
    std::fs::remove_dir_all(node.root().join("sys/bus/pci/devices").join(address).join("net/ens1")).unwrap();
    has(&about(&node, address), "the host uses it: an interface in another network namespace", "only then");
}

#[test]
fn parent_of_other_domains_is_never_to_be_bound() {
    let address = "0000:f1:00.0";
    let node = node_with(&[(address, 90, Some("vmd")), ("0000:f2:00.0", 91, None)]);
    below(&node, address, &[("pci10000:e0/10000:e1:00.0/nvme/nvme0/nvme0n1/dev", "259:0\n")]);
    below(&node, address, &[("pci10000:e0/10000:e1:00.0/nvme/nvme0/nvme0n1/size", "9\n")]);
    below(&node, "0000:f2:00.0", &[("pci10001:e0/power/control", "auto\n")]);
    procs(&node, "24 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
    let findings = about(&node, address);
    has(
        &findings,
        "as a VMD controller is; the host uses it: disk nvme0n1 (mounted at /)",
        "all devices behind it would disappear",
    );
    assert!(!findings[0].1.contains("driverctl"), "{findings:#?}");
    has(&about(&node, "0000:f2:00.0"), "the parent of other PCI functions", "Do not bind it");
}
