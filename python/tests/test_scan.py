"""Tests devices, groups and members."""

import dataclasses
from pathlib import Path

import pytest
from sim_node import GPUS, Node

from vfio_probe import Device, Kind, MalformedError, Member, MissingError, Peek, ProbeError, Root, Sriov

UUID = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab"


def test_scan_fills_every_field(root: Root) -> None:
    scan = root.scan()
    assert [device.id for device in scan] == list(GPUS.values())
    assert scan.devices == tuple(scan)
    assert len(scan) == 8
    assert scan.errors == ()
    first = scan.devices[0]
    assert (first.vendor, first.device, first.subsystem_vendor, first.subsystem_device) == (
        0x10DE,
        0x2330,
        0x10DE,
        0x16C1,
    )
    assert (first.class_code, first.driver, first.group, first.numa_node) == (0x030200, "vfio-pci", 51, 0)
    assert (first.sriov, first.vfs, first.kind) == (Sriov.NONE, 0, Kind.PCI)
    assert isinstance(first.cdev, int)
    assert (first.vgpu_type, first.parent) == (None, None)
    assert [device.numa_node for device in scan] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_device_equals_scan_except_cdev(root: Root) -> None:
    scanned = root.scan().devices[3]
    device = root.device(scanned.id)
    fields = [field.name for field in dataclasses.fields(Device) if field.name != "cdev"]
    assert len(fields) == 14
    assert [getattr(device, name) for name in fields] == [getattr(scanned, name) for name in fields]
    assert device.cdev is None
    assert root.device("0000:5F:00.0") == device


def test_unreadable_device_does_not_affect_others(node: Node, root: Root) -> None:
    node.do("write", path="sys/bus/pci/devices/0000:4e:00.0/uevent", content="DRIVER=vfio-pci\nnonsense\n")
    node.do("make_unreadable", path="sys/bus/pci/devices/0000:bd:00.0/uevent")
    scan = root.scan()
    assert [device.group for device in scan] == [51, 52, 54, 55, 57, 58]
    errors = {error.device: error for error in scan.errors}
    assert set(errors) == {"0000:4e:00.0", "0000:bd:00.0"}
    malformed = errors["0000:4e:00.0"]
    assert type(malformed) is MalformedError
    assert str(malformed) == "0000:4e:00.0: uevent: unexpected content"
    assert malformed.errno == 0
    unreadable = errors["0000:bd:00.0"]
    assert isinstance(unreadable, ProbeError)
    assert unreadable.errno != 0
    assert str(unreadable).startswith("0000:bd:00.0: uevent: ")
    with pytest.raises(MalformedError, match="uevent: unexpected content"):
        root.device("0000:4e:00.0")


def test_group_without_host_driver_is_viable(node: Node, root: Root) -> None:
    group = root.group(51)
    assert (group.group, group.members, group.unreadable, group.viable) == (51, 1, 0, True)
    assert (group.offender, group.offender_driver) == (None, None)
    node.do("add", address="0000:1b:00.1", group=51, driver="pcieport")
    assert (root.group(51).members, root.group(51).viable) == (2, True)


def test_host_driver_makes_group_not_viable(node: Node, root: Root) -> None:
    node.do("add", address="0000:1b:00.1", group=51, driver="snd_hda_intel")
    group = root.group(51)
    assert (group.viable, group.offender, group.offender_driver) == (False, "0000:1b:00.1", "snd_hda_intel")
    members = root.members(51)
    assert [(member.name, member.driver, member.vfio) for member in members] == [
        ("0000:1b:00.0", "vfio-pci", True),
        ("0000:1b:00.1", "snd_hda_intel", False),
    ]
    assert (members.members, members.errors, len(members)) == (tuple(members), (), 2)
    assert isinstance(members.members[0], Member)


def test_unreadable_member_is_an_error_value(node: Node, root: Root) -> None:
    node.do("link", path="sys/kernel/iommu_groups/51/devices/x\ny", target="nowhere")
    members = root.members(51)
    assert len(members) == 1
    (error,) = members.errors
    assert (type(error), error.group) == (MalformedError, 51)
    assert str(error) == r"group 51: devices/x\ny: unexpected content"
    assert (root.group(51).members, root.group(51).unreadable) == (1, 1)


def test_two_devices_share_a_group(node: Node, root: Root) -> None:
    node.do("add_gpu", address="0000:1c:00.0", group=51, numa_node=0)
    assert [device.id for device in root.scan() if device.group == 51] == ["0000:1b:00.0", "0000:1c:00.0"]
    assert root.group(51).members == 2


def test_mediated_device_has_parent_and_type(node: Node, root: Root) -> None:
    node.do("add_mdev", uuid=UUID, parent="0000:1b:00.0", type="nvidia-35", group=90, cdev=40)
    (device,) = (device for device in root.scan() if device.kind is Kind.MDEV)
    assert (device.id, device.parent, device.vgpu_type, device.group) == (
        UUID,
        "0000:1b:00.0",
        "nvidia-35",
        90,
    )
    assert (device.vendor, device.class_code, device.driver, device.cdev) == (
        0x10DE,
        0x030200,
        "vfio_mdev",
        40,
    )
    assert root.peek(90) is Peek.UNAVAILABLE


def test_virtual_functions_have_role_and_parent(empty: Node) -> None:
    physical, virtual = "0000:17:00.0", "0000:17:00.4"
    empty.do("add", address=physical, group=30, driver="vfio-pci", sriov_numvfs=4)
    empty.do("add", address=virtual, group=31, driver="nvidia", physfn=physical)
    with Root(empty.root) as root:
        first, second = root.scan()
    assert (first.sriov, first.vfs, first.kind) == (Sriov.PHYSICAL, 4, Kind.PCI)
    assert (second.sriov, second.vfs, second.kind) == (Sriov.VIRTUAL, 0, Kind.VENDOR_VF)
    assert second.parent == physical


def test_unknown_fields_are_none(empty: Node) -> None:
    empty.do("add", address="0000:02:00.0", group=None)
    with Root(empty.root) as root:
        device = root.device("0000:02:00.0")
        assert root.scan().devices == ()
    assert (device.driver, device.group, device.numa_node) == (None, None, None)


def test_kernels_before_6_1_are_scanned_by_driver() -> None:
    with Node("--before-6.1", "--eight-gpus") as node, Root(node.root) as root:
        assert [(device.id, device.cdev) for device in root.scan()] == [
            (address, None) for address in GPUS.values()
        ]


def test_missing_things_raise_missing_error(root: Root, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="^group 999: no such IOMMU group$") as group:
        root.group(999)
    assert (group.value.group, group.value.device, group.value.errno) == (999, None, 2)
    for call in (root.members, root.peek):
        with pytest.raises(MissingError, match="^group 999: "):
            call(999)
    with pytest.raises(MissingError, match="^0000:aa:00.0: no such device on the pci bus$") as device:
        root.device("0000:aa:00.0")
    assert (device.value.device, device.value.group) == ("0000:aa:00.0", None)
    with pytest.raises(FileNotFoundError, match="root directory"):
        Root(tmp_path / "nowhere")
    with Root(tmp_path) as bare, pytest.raises(MissingError, match="^sys/bus/pci/drivers: No such file"):
        bare.scan()


def test_root_accepts_any_path_and_defaults_to_slash(node: Node) -> None:
    with Root() as slash:
        assert slash.path == "/"
    for path in (node.root, str(node.root)):
        with Root(path) as root:
            assert root.path == str(node.root)
            assert len(root.scan()) == 8
    with pytest.raises(ProbeError, match="root directory") as error:
        Root(__file__)
    assert error.value.errno == 20


def test_closed_root_is_refused(node: Node) -> None:
    root = Root(node.root)
    with root as entered:
        assert entered is root
        assert not root.closed
    assert root.closed
    root.close()
    for call in (
        root.scan,
        root.watch,
        root.__enter__,
        lambda: root.device("0000:1b:00.0"),
        lambda: root.group(51),
        lambda: root.members(51),
        root.has_group_nodes,
        lambda: root.peek(51),
        lambda: root.probe(51),
        lambda: root.probe(51, 1.0),
        lambda: root.holders([51]),
    ):
        with pytest.raises(ValueError, match="^the root is closed$"):
            call()
    assert repr(root) == f"<Root {node.root} closed>"


def test_unchanged_device_is_shared_and_changed_one_is_new(node: Node) -> None:
    with Root(node.root) as root:
        first, second, snapshot = root.scan(), root.scan(), root.snapshot()
        assert all(one is other for one, other in zip(first, second, strict=True))
        assert all(one is other for one, other in zip(first, snapshot, strict=True))
        node.do("write", path="sys/bus/pci/devices/0000:1b:00.0/numa_node", content="1\n")
        changed = root.scan().devices
        assert (first.devices[0].numa_node, changed[0].numa_node) == (0, 1)
        assert changed[1] is first.devices[1]
        # Root.device() does not set cdev, so its value is another one.
        assert root.device("0000:1b:00.0") == dataclasses.replace(changed[0], cdev=None)
        assert root.scan().devices == changed
