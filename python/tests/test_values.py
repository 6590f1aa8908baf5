"""Tests that values are frozen and compare and hash by value."""

import enum
import inspect

import pytest
from sim_node import Node

import vfio_probe
from vfio_probe import (
    ErrorKind,
    EventKind,
    Evidence,
    InPod,
    Kind,
    Peek,
    PidNamespace,
    Root,
    Sriov,
    State,
    UnknownReason,
    Via,
)


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
        lists = [root.scan(), root.members(51), root.holders([51]), group, root, watch]
        for value in [*values(node), *lists]:
            fields = [name for name in dir(value) if not name.startswith("_")]
            assert fields
            for name in [*fields, "another"]:
                with pytest.raises(AttributeError):
                    setattr(value, name, None)
            with pytest.raises(AttributeError):
                delattr(value, fields[0])
            with pytest.raises(TypeError, match="not an acceptable base type"):
                type("Sub", (type(value),), {})


def test_repr_shows_the_fields(node: Node) -> None:
    pid = node.start_vm(51)
    node.do("add", address="0000:3d:00.1", group=52, driver="snd_hda_intel")
    with Root(node.root) as root, root.watch() as watch:
        assert repr(root.scan()) == "<Scan 8 devices, 0 errors>"
        assert repr(root.scan().devices[0]) == (
            "<Device 0000:1b:00.0 10de:2330 class 030200 driver vfio-pci group 51 numa_node 0>"
        )
        assert repr(root.group(51)) == "<Group 51 members 1 viable>"
        assert repr(root.group(52)) == (
            "<Group 52 members 2 not viable because of 0000:3d:00.1 on snd_hda_intel>"
        )
        assert repr(root.members(51)) == "<Members 1, 0 errors>"
        assert repr(root.members(51).members[0]) == "<Member 0000:1b:00.0 driver vfio-pci>"
        assert repr(root.probe(51)) == "<Occupancy group 51 held>"
        assert repr(root.probe(99)) == "<Occupancy group 99 absent>"
        holders = root.holders([51])
        assert repr(holders) == "<Holders 1 of 2 processes>"
        assert repr(holders.holders[0]) == f"<Holder of group 51 pid {pid} (qemu-system-x86) via group>"
        assert repr(holders.coverage) == (
            "<ScanCoverage 2 processes, 0 unreadable, 0 unsearched, 0 descriptors unattributed, "
            "pid namespace host>"
        )
        snapshot = root.snapshot()
        assert repr(snapshot) == "<Snapshot 8 devices, 8 groups, 0 errors>"
        assert repr(snapshot.groups[0]) == "<GroupSnapshot 51 held evidence holder, 1 holders>"
        assert repr(watch) == "<Watch>"
        assert repr(watch.next_event(0)).startswith("<Event bound device 0000:")
        assert repr(watch.group(51)) == "<WatchedGroup 51 held evidence enable>"
    assert repr(watch) == "<Watch closed>"


ENUMS: list[type[enum.Enum]] = [
    ErrorKind,
    EventKind,
    Evidence,
    InPod,
    Kind,
    Peek,
    PidNamespace,
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


def test_public_names_have_docstrings() -> None:
    for name in vfio_probe.__all__:
        thing = getattr(vfio_probe, name)
        assert name == "__version__" or thing.__doc__
        assert name in ("__version__", "names") or thing.__module__ in ("vfio_probe", "vfio_probe._enums")
        if inspect.isclass(thing) and not issubclass(thing, (enum.Enum, BaseException)):
            methods = [
                each for each in dir(thing) if not each.startswith("_") and callable(getattr(thing, each))
            ]
            assert [each for each in methods if not getattr(thing, each).__doc__] == []
