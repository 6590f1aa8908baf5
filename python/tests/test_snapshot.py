"""Tests the snapshot: devices, groups, holders and coverage in one value."""

import pytest
from sim_node import Node

from vfio_probe import Evidence, MissingError, Peek, Root, State


def test_snapshot_shows_a_holder_without_a_probe(node: Node, root: Root) -> None:
    pid = node.start_vm(51, group_only=True)
    snapshot = root.snapshot()
    assert [device.id for device in snapshot] == [device.id for device in root.scan()]
    held, free = snapshot.group(51), snapshot.group(52)
    assert held is not None
    assert free is not None
    assert (held.occupancy.state, held.evidence, held.peek) == (State.HELD, Evidence.HOLDER, Peek.LOOKS_FREE)
    assert [holder.pid for holder in held.holders] == [pid]
    assert (free.occupancy.state, free.evidence, free.holders) == (State.FREE, Evidence.ENABLE, ())
    assert (snapshot.coverage.complete, snapshot.errors, len(snapshot)) == (True, (), 8)
    assert snapshot.group(999) is None
    assert node.opens(52) == 0


def test_probe_after_the_search_is_the_better_evidence(node: Node, root: Root) -> None:
    node.start_vm(51, group_only=True)
    snapshot = root.snapshot(probe_timeout=10)
    states = [(group.occupancy.state, group.evidence) for group in snapshot.groups[:2]]
    assert states == [(State.HELD, Evidence.OPEN), (State.FREE, Evidence.OPEN)]


def test_every_offender_is_named(node: Node, root: Root) -> None:
    for function, driver in ("0000:1b:00.1", "snd_hda_intel"), ("0000:1b:00.2", "xhci_hcd"):
        node.do("add", address=function, group=51, driver=driver)
    group = root.snapshot().group(51)
    assert group is not None
    offenders = [("0000:1b:00.1", "snd_hda_intel"), ("0000:1b:00.2", "xhci_hcd")]
    assert [(member.name, member.driver) for member in group.offenders] == offenders
    assert [member.name for member in root.members(51).offenders] == [name for name, _ in offenders]
    assert [member.offends for member in root.members(51)] == [False, True, True]
    assert root.group(51).offenders == 2


def test_what_cannot_be_read_is_an_error(node: Node, root: Root) -> None:
    node.do("write", path="sys/bus/pci/devices/0000:1b:00.0/uevent", content="")
    node.do("delete", path="proc")
    snapshot = root.snapshot()
    assert [str(error).split(":")[0] for error in snapshot.errors] == ["0000", "proc"]
    assert isinstance(snapshot.errors[1], MissingError)
    assert (snapshot.coverage.processes, snapshot.coverage.complete) == (0, False)


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan")])
def test_invalid_timeouts_are_refused(root: Root, timeout: float) -> None:
    with pytest.raises((TypeError, ValueError), match="probe_timeout"):
        root.snapshot(timeout)
