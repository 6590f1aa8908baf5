//! Bad inputs that the system reports: paths, devices, groups and files.

use super::Expected::{Alike, ExceptC, Gives};
use super::{BadInput, Failure, bad};

const FAILURE: Failure = Failure::NONE;

/// The bad inputs, in the order of the table.
pub(super) const ALL: &[BadInput] = &[
    bad(
        "a root that does not exist",
        "open",
        b"/nowhere",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            path: Some("/nowhere"),
            text: "root directory /nowhere: No such file or directory",
            ..FAILURE
        }),
    ),
    bad(
        "a root that is a file",
        "open",
        b"ROOT/file",
        Alike(Failure {
            kind: "system",
            errno: 20,
            path: Some("ROOT/file"),
            text: "root directory ROOT/file: Not a directory",
            ..FAILURE
        }),
    ),
    bad(
        "a root below a directory that cannot be entered",
        "open",
        b"ROOT/locked/root",
        Alike(Failure {
            kind: "denied",
            errno: 13,
            path: Some("ROOT/locked/root"),
            text: "root directory ROOT/locked/root: Permission denied",
            ..FAILURE
        }),
    ),
    bad(
        "a path that is not UTF-8",
        "open",
        b"/no\xffwhere",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            path: Some("/no%FFwhere"),
            text: "root directory /no�where: No such file or directory",
            ..FAILURE
        }),
    ),
    bad(
        "a path with a line break",
        "open",
        b"/no\nwhere",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            path: Some("/no%0Awhere"),
            text: "root directory /no\\nwhere: No such file or directory",
            ..FAILURE
        }),
    ),
    bad(
        "a device that does not exist",
        "device",
        b"0000:77:00.0",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            device: Some("0000:77:00.0"),
            path: Some("sys/bus/pci/devices/0000:77:00.0"),
            text: "0000:77:00.0: no such device on the pci bus",
            ..FAILURE
        }),
    ),
    bad(
        "a mediated device that does not exist",
        "device",
        b"83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            device: Some("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"),
            path: Some("sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"),
            text: "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001: no such device on the mdev bus",
            ..FAILURE
        }),
    ),
    bad(
        "a device whose uevent may not be read",
        "device",
        b"0000:3d:00.0",
        Alike(Failure {
            kind: "denied",
            errno: 13,
            device: Some("0000:3d:00.0"),
            path: Some("sys/bus/pci/devices/0000:3d:00.0/uevent"),
            text: "0000:3d:00.0: uevent: Permission denied",
            ..FAILURE
        }),
    ),
    bad(
        "a device whose uevent is malformed",
        "device",
        b"0000:4e:00.0",
        Alike(Failure {
            kind: "malformed",
            device: Some("0000:4e:00.0"),
            path: Some("sys/bus/pci/devices/0000:4e:00.0/uevent"),
            text: "0000:4e:00.0: uevent: unexpected content",
            ..FAILURE
        }),
    ),
    bad(
        "the same in a scan",
        "scan",
        b"0000:3d:00.0",
        Alike(Failure {
            kind: "denied",
            errno: 13,
            device: Some("0000:3d:00.0"),
            path: Some("sys/bus/pci/devices/0000:3d:00.0/uevent"),
            text: "0000:3d:00.0: uevent: Permission denied",
            ..FAILURE
        }),
    ),
    bad(
        "hardware of a device that does not exist",
        "hardware",
        b"0000:77:00.0",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            device: Some("0000:77:00.0"),
            path: Some("sys/bus/pci/devices/0000:77:00.0"),
            text: "0000:77:00.0: no such device on the pci bus",
            ..FAILURE
        }),
    ),
    bad(
        "a group that does not exist",
        "group",
        b"4000",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            group: Some(4000),
            path: Some("sys/kernel/iommu_groups/4000"),
            text: "group 4000: no such IOMMU group",
            ..FAILURE
        }),
    ),
    bad(
        "members of it",
        "members",
        b"4000",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            group: Some(4000),
            path: Some("sys/kernel/iommu_groups/4000"),
            text: "group 4000: no such IOMMU group",
            ..FAILURE
        }),
    ),
    bad(
        "a peek of it",
        "peek",
        b"4000",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            group: Some(4000),
            path: Some("sys/kernel/iommu_groups/4000"),
            text: "group 4000: no such IOMMU group",
            ..FAILURE
        }),
    ),
    bad("a probe of it", "probe", b"4000", Gives("absent")),
    bad(
        "device nodes of it",
        "nodes",
        b"4000",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            group: Some(4000),
            path: Some("sys/kernel/iommu_groups/4000"),
            text: "group 4000: no such IOMMU group",
            ..FAILURE
        }),
    ),
    bad(
        "a watch's state of it",
        "watch_group",
        b"4000",
        ExceptC(
            "none",
            Failure {
                kind: "missing",
                group: Some(4000),
                text: "group 4000: no device of it is bound to a VFIO driver",
                ..FAILURE
            },
        ),
    ),
    bad("a wait for it", "wait_free", b"4000", Gives("false")),
    bad("a probe of a group without node", "probe", b"56", Gives("absent")),
    bad("device nodes of a group without node", "nodes", b"56", Gives("group node vfio/56")),
    bad("a probe of a node that may not be opened", "probe", b"57", Gives("unknown, denied")),
    bad(
        "pci.ids that does not exist",
        "names",
        b"/nowhere",
        Alike(Failure {
            kind: "missing",
            errno: 2,
            path: Some("/nowhere"),
            text: "pci.ids /nowhere: No such file or directory",
            ..FAILURE
        }),
    ),
    bad(
        "pci.ids that is a directory",
        "names",
        b"ROOT/sys",
        Alike(Failure {
            kind: "malformed",
            path: Some("ROOT/sys"),
            text: "pci.ids ROOT/sys: not a regular file",
            ..FAILURE
        }),
    ),
    bad(
        "pci.ids that may not be read",
        "names",
        b"ROOT/unreadable",
        Alike(Failure {
            kind: "denied",
            errno: 13,
            path: Some("ROOT/unreadable"),
            text: "pci.ids ROOT/unreadable: Permission denied",
            ..FAILURE
        }),
    ),
];
