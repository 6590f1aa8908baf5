"""Tests that values are frozen and compare and hash by value."""

import ast
import copy
import dataclasses
import datetime
import enum
import inspect
import json
import multiprocessing
import os
import pickle
import re
from pathlib import Path

import pytest
from sim_node import Node

import vfio_probe
from vfio_probe import (
    Device,
    DeviceNodes,
    ErrorKind,
    EventKind,
    Evidence,
    GroupSnapshot,
    HeldError,
    Holder,
    InPod,
    Kind,
    Member,
    MissingError,
    Occupancy,
    Peek,
    PidNamespace,
    Presence,
    ProbeError,
    Root,
    ScanCoverage,
    Snapshot,
    Sriov,
    State,
    UnknownReason,
    Via,
    _core,
    _enums,
)
from vfio_probe._value import Value


def values(node: Node) -> list[object]:
    """Returns one value of each class, from a new root."""
    with Root(node.root) as root, root.watch(interval=0.05) as watch:
        event = watch.next_event(30)
        (holder,) = root.holders([51])
        return [
            root.scan().devices[0],
            root.group(51),
            root.members(51).members[0],
            root.probe(51),
            root.holders([51]).coverage,
            holder,
            event,
        ]


def test_values_compare_and_hash_by_value(node: Node) -> None:
    node.start_vm(51)
    node.do("unbind", address="0000:df:00.0")
    for bus in ("3d", "4e", "5f", "9b", "bd", "ce"):
        node.do("unbind", address=f"0000:{bus}:00.0")
    first, second = values(node), values(node)
    assert first == second
    assert [hash(value) for value in first] == [hash(value) for value in second]
    assert all(one is not other for one, other in zip(first, second, strict=True))
    assert len(set(first + second)) == len(first)
    for value in first:
        assert value != 1
        assert value != "x"


def test_different_values_differ(root: Root) -> None:
    devices = root.scan().devices
    assert devices[0] != devices[1]
    assert len(set(devices)) == 8
    assert root.group(51) != root.group(52)
    assert root.probe(51) != root.probe(52)


def test_values_are_frozen(node: Node) -> None:
    node.start_vm(51)
    with Root(node.root) as root, root.watch() as watch:
        watch.next_event(0)
        group = watch.group(51)
        assert group is not None
        lists = [root.scan(), root.members(51), root.holders([51]), group, root.snapshot(), root, watch]
        for value in [*values(node), *lists]:
            fields = [name for name in dir(value) if not name.startswith("_")]
            assert fields
            for name in [*fields, "another"]:
                # CPython before 3.12 raises TypeError for a name that is not a field.
                with pytest.raises((AttributeError, TypeError)):
                    setattr(value, name, None)
            with pytest.raises((AttributeError, TypeError)):
                delattr(value, fields[0])


def every_value(node: Node) -> list[Value]:
    """Returns one value of each class, as the extension constructs them."""
    node.do("write", path="sys/bus/pci/devices/0000:4e:00.0/uevent", content="")
    with Root(node.root) as root, root.watch(interval=0.02) as watch:
        assert watch.wait_until_held(51, 30)
        assert watch.wait_for(lambda watch: watch.holders(51), 30)
        group, held = watch.group(51), watch.holders(51)
        assert group is not None
        assert held is not None
        snapshot, scan, members = root.snapshot(), root.scan(), root.members(51)
        assert scan.errors
        first = list(iter(lambda: watch.next_event(0), None))
        return [
            *(group, held, snapshot, snapshot.groups[0], snapshot.coverage, snapshot.groups[0].holders[0]),
            *(scan, scan.devices[0], members, members.members[0], root.group(51), root.probe(51)),
            *(root.probe(99), root.device_nodes(51), root.hardware("0000:1b:00.0"), *first),
        ]


def test_every_class_can_be_pickled_copied_and_written_as_json(node: Node) -> None:
    node.start_vm(51)
    found = every_value(node)
    classes = {
        thing
        for name in vfio_probe.__all__
        if isinstance(thing := getattr(vfio_probe, name), type) and issubclass(thing, Value)
    }
    assert {type(value) for value in found} == classes
    for value in found:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert pickle.loads(pickle.dumps(value, protocol)) == value
        assert copy.copy(value) == copy.deepcopy(value) == dataclasses.replace(value) == value
        assert type(value)(*(getattr(value, field.name) for field in dataclasses.fields(value))) == value
        assert [field.name for field in dataclasses.fields(value)] == [*value.__match_args__]
        document = json.loads(json.dumps(value.as_dict()))
        assert document == value.as_dict()
        assert {field.name for field in dataclasses.fields(value)} <= set(document)
        assert dataclasses.asdict(value)


def test_values_are_ordered_with_none_first() -> None:
    one, two, three = Device("a"), Device("a", group=3), Device("b")
    assert sorted([three, two, one]) == [one, two, three]
    assert one < two <= two < three
    assert three > two >= two > one
    with pytest.raises(TypeError):
        one < Member("a")  # noqa: B015


def test_values_pass_through_multiprocessing(node: Node) -> None:
    with Root(node.root) as root:
        snapshot = root.snapshot()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(copy.copy, (snapshot,)) == snapshot


def test_program_can_construct_a_fake() -> None:
    holder = Holder(group=51, pid=4711)
    group = GroupSnapshot(
        51, Occupancy(51, State.HELD), holders=(holder,), members=(Member("x", offends=True),)
    )
    fake = Snapshot((Device("0000:1b:00.0", group=51),), (group,))
    assert fake.group(51) is group
    assert [device.id for device in fake] == ["0000:1b:00.0"]
    assert [member.name for member in group.offenders] == ["x"]
    assert not fake.coverage.complete
    assert ScanCoverage(pid_namespace=PidNamespace.HOST).complete
    match group.occupancy:
        case Occupancy(51, State.HELD):
            pass
        case _:
            pytest.fail("the pattern did not match")
    with pytest.raises(HeldError, match="^group 51: held$"):
        group.occupancy.raise_unless_free()


def test_device_nodes_and_hardware(node: Node) -> None:
    with Root(node.root) as root:
        nodes = root.device_nodes(51)
        assert nodes.group_node == "vfio/51"
        assert [device for device, _ in nodes.devices] == ["0000:1b:00.0"]
        assert nodes.iommufd_mode() is None
        hardware = root.hardware("0000:1b:00.0")
        assert (hardware.device, hardware.presence in Presence) == ("0000:1b:00.0", True)
        with pytest.raises(MissingError, match="^group 999: no such IOMMU group$"):
            root.device_nodes(999)
        with pytest.raises(MissingError, match="^0000:77:00.0: no such device on the pci bus$"):
            root.hardware("0000:77:00.0")
    with Node("--cdevs", "--eight-gpus") as with_cdevs, Root(with_cdevs.root) as root:
        iommufd = root.device_nodes(51).iommufd_mode()
        assert iommufd is not None
        assert iommufd[0] == "iommu"
        assert re.fullmatch("vfio/devices/vfio[0-9]+", iommufd[1])
    fake = DeviceNodes(51, "vfio/vfio", "vfio/51")
    assert fake.group_mode() == ("vfio/vfio", "vfio/51")
    assert dataclasses.replace(fake, group_node=None).group_mode() is None


def test_holder_has_uid_and_start(node: Node) -> None:
    before = datetime.datetime.now(datetime.timezone.utc)
    node.start_vm(51)
    with Root(node.root) as root:
        (holder,) = root.holders([51, 51])
    assert holder.uid == os.geteuid()
    assert holder.started is not None
    assert holder.started.tzinfo is datetime.timezone.utc
    assert abs(holder.started - before) < datetime.timedelta(seconds=60)


def test_repr_of_handles(node: Node) -> None:
    with Root(node.root) as root, root.watch() as watch:
        assert repr(root) == f"<Root {node.root}>"
        assert repr(watch) == "<Watch>"
    assert repr(watch) == "<Watch closed>"
    assert repr(Member("x", "y")) == "Member(name='x', driver='y', vfio=False, offends=False)"


ENUMS: list[type[enum.Enum]] = [
    ErrorKind,
    EventKind,
    Evidence,
    InPod,
    Kind,
    Peek,
    PidNamespace,
    Presence,
    Sriov,
    State,
    UnknownReason,
    Via,
]


@pytest.mark.parametrize("words", ENUMS)
def test_enum_members_equal_their_words(words: type[enum.Enum]) -> None:
    for word in words:
        assert word == word.value
        assert str(word) == f"{word}" == word.value
        assert words(word.value) is word
        assert word.name == word.value.replace("-", "_").upper()
        assert isinstance(word, str)


def test_every_public_item_has_a_docstring() -> None:
    for name in vfio_probe.__all__:
        thing = getattr(vfio_probe, name)
        if name in ("__version__", "Event"):
            continue
        assert thing.__doc__, name
        assert thing.__module__ == "vfio_probe" or name == "names"
        if inspect.isclass(thing) and not issubclass(thing, (enum.Enum, BaseException)):
            members = [each for each in dir(thing) if not each.startswith("_")]
            assert members
            assert [each for each in members if not inspect.getdoc(getattr(thing, each))] == []
        if inspect.isclass(thing) and issubclass(thing, ProbeError):
            for field in ("kind", "errno", "strerror", "filename", "device", "group", "text"):
                assert re.search(rf"^ +{field}: ", ProbeError.__doc__ or "", re.M)


def test_every_word_has_a_docstring() -> None:
    for each in ast.parse(inspect.getsource(_enums)).body:
        if isinstance(each, ast.ClassDef) and each.name != "_Word":
            words = [index for index, line in enumerate(each.body) if isinstance(line, ast.Assign)]
            assert words
            for index in words:
                assert isinstance(each.body[index + 1], ast.Expr), ast.unparse(each.body[index])


def test_stub_has_the_docstrings_of_the_extension() -> None:
    stub = ast.parse((Path(vfio_probe.__file__).parent / "_core.pyi").read_text())
    items: list[tuple[object, ast.ClassDef | ast.FunctionDef]] = []
    for each in stub.body:
        if isinstance(each, (ast.ClassDef, ast.FunctionDef)):
            thing = getattr(_core, each.name)
            items.append((thing, each))
            items += [
                (getattr(thing, method.name), method)
                for method in each.body
                if isinstance(each, ast.ClassDef)
                and isinstance(method, ast.FunctionDef)
                and not method.name.startswith("__")
            ]
    assert len(items) > 30
    for thing, item in items:
        assert " ".join((ast.get_docstring(item) or "").split()) == " ".join((thing.__doc__ or "").split())
