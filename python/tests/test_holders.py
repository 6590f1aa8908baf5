"""Tests the search for holders, by device number in proc of the tree."""

from pathlib import Path

import pytest
from sim_node import Node

from vfio_probe import Holders, InPod, MissingError, PidNamespace, Root, Via

UID = "12345678-9abc-def0-1234-56789abcdef0"
CONTAINER = "ab" * 32


def test_free_groups_have_no_holder(root: Root) -> None:
    found = root.holders([51, 52])
    assert (found.holders, len(found), list(found)) == ((), 0, [])
    assert (found.coverage.processes, found.coverage.unreadable, found.coverage.unattributed) == (1, 0, 0)
    assert (found.coverage.unsearched, found.coverage.pid_namespace, found.coverage.complete) == (
        0,
        PidNamespace.HOST,
        True,
    )


def test_holder_has_pod_container_and_start_time(node: Node, root: Root) -> None:
    pid = node.start_vm(51, 52, pod_uid=UID, container_id=CONTAINER)
    other = node.start_vm(53)
    found = root.holders([53, 52, 51])
    assert [(holder.group, holder.pid) for holder in found] == [(51, pid), (52, pid), (53, other)]
    first, _, last = found
    assert (first.command, first.via, first.pod_uid, first.container_id) == (
        "qemu-system-x86",
        Via.GROUP,
        UID,
        CONTAINER,
    )
    assert (last.pod_uid, last.container_id) == (None, None)
    assert (first.in_pod, last.in_pod) == (InPod.YES, InPod.NO)
    # Field 22 of stat is the 20th after the command.
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    assert first.start_time == int(stat[19])
    assert found.coverage.processes == 3


def test_any_iterable_of_groups_is_accepted(node: Node, root: Root) -> None:
    pid = node.start_vm(51)
    for groups in ([51], (51,), {51}, range(51, 52), iter([51]), {51: None}.keys()):
        found = root.holders(groups)
        assert isinstance(found, Holders)
        assert [holder.pid for holder in found] == [pid]
    assert root.holders([]).holders == ()
    assert root.holders([999]).holders == ()


def test_pod_of_a_kata_sandbox_is_unknown(node: Node, root: Root) -> None:
    node.start_vm(51, cgroup=f"0::/kata_overhead/{CONTAINER}\n")
    (holder,) = root.holders([51])
    assert (holder.in_pod, holder.pod_uid, holder.container_id) == (InPod.UNKNOWN, None, CONTAINER)


def test_foreign_pid_namespace_is_reported(node: Node, root: Root) -> None:
    node.do("delete", path="proc/1/ns/pid")
    node.do("link", path="proc/1/ns/pid", target="pid:[4026532178]")
    coverage = root.holders([51]).coverage
    assert coverage.pid_namespace is PidNamespace.FOREIGN
    assert (coverage.unreadable, coverage.complete) == (0, False)


def test_holder_disappears_with_the_vm(node: Node, root: Root) -> None:
    node.kill_vm(node.start_vm(51))
    assert root.holders([51]).holders == ()


def test_holders_without_proc_raise_missing_error(tmp_path: Path) -> None:
    with Root(tmp_path) as root, pytest.raises(MissingError, match="^proc: No such file"):
        root.holders([51])


def test_unreadable_processes_are_counted(node: Node, root: Root) -> None:
    node.add_unreadable_process(4711)
    coverage = root.holders([51]).coverage
    assert (coverage.processes, coverage.unreadable, coverage.complete) == (2, 1, False)
