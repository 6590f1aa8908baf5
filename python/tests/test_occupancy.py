"""Tests every state of a probe, with errors that the kernel returns."""

import errno
import threading

import pytest
from sim_node import Node

from vfio_probe import (
    DeniedError,
    EventKind,
    GroupEvent,
    HeldError,
    MissingError,
    Peek,
    ProbeError,
    ProbeTimeoutError,
    Root,
    State,
    UnknownReason,
)

TIMEOUTS = pytest.mark.parametrize("timeout", [None, 30.0, 30, float("inf"), 1e300])


@TIMEOUTS
def test_free_group_is_free(root: Root, timeout: float | None) -> None:
    occupancy = root.probe(51, timeout)
    assert (occupancy.group, occupancy.state, occupancy.unknown_reason, occupancy.errno) == (
        51,
        State.FREE,
        None,
        0,
    )
    occupancy.raise_unless_free()
    assert root.peek(51) is Peek.LOOKS_FREE


@TIMEOUTS
def test_held_group_is_held(node: Node, root: Root, timeout: float | None) -> None:
    node.start_vm(51)
    occupancy = root.probe(51, timeout)
    assert (occupancy.state, occupancy.unknown_reason, occupancy.errno) == (State.HELD, None, 0)
    assert root.peek(51) is Peek.LOOKS_HELD
    with pytest.raises(HeldError, match="^group 51: held$") as error:
        occupancy.raise_unless_free()
    assert (error.value.errno, error.value.group, error.value.device) == (errno.EBUSY, 51, None)
    assert root.probe(52, timeout).state is State.FREE


def test_group_is_free_after_the_vm_ends(node: Node, root: Root) -> None:
    pid = node.start_vm(51)
    assert root.probe(51).state is State.HELD
    node.kill_vm(pid)
    assert root.probe(51).state is State.FREE
    assert root.peek(51) is Peek.LOOKS_FREE


def test_holder_of_the_group_only_is_invisible_to_peek(node: Node, root: Root) -> None:
    node.start_vm(51, group_only=True)
    assert root.peek(51) is Peek.LOOKS_FREE
    assert root.probe(51).state is State.HELD


@TIMEOUTS
def test_missing_group_is_absent(root: Root, timeout: float | None) -> None:
    occupancy = root.probe(999, timeout)
    assert (occupancy.state, occupancy.unknown_reason, occupancy.errno) == (State.ABSENT, None, 0)
    with pytest.raises(MissingError, match="^group 999: absent: no device node") as error:
        occupancy.raise_unless_free()
    assert (error.value.errno, error.value.group) == (errno.ENODEV, 999)


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_denied_probe_is_unknown(node: Node, root: Root, timeout: float | None) -> None:
    with node.denied(51):
        occupancy = root.probe(51, timeout)
    assert (occupancy.state, occupancy.unknown_reason, occupancy.errno) == (
        State.UNKNOWN,
        UnknownReason.DENIED,
        0,
    )
    with pytest.raises(DeniedError, match="^group 51: unknown: the open was denied$") as error:
        occupancy.raise_unless_free()
    assert (error.value.errno, error.value.group) == (errno.EACCES, 51)


def test_other_errno_is_unknown_with_errno(node: Node, root: Root) -> None:
    node.do("link", path="dev/vfio/99", target="99")
    occupancy = root.probe(99)
    assert (occupancy.state, occupancy.unknown_reason, occupancy.errno) == (
        State.UNKNOWN,
        UnknownReason.ERRNO,
        errno.ELOOP,
    )
    with pytest.raises(ProbeError, match="^group 99: unknown: Too many levels of symbolic links") as error:
        occupancy.raise_unless_free()
    assert (type(error.value), error.value.errno) == (ProbeError, errno.ELOOP)


def test_probe_without_time_times_out(root: Root) -> None:
    occupancy = root.probe(51, 0)
    # The helper thread may return before the timeout is evaluated; then the test probes again.
    for _ in range(10_000):
        if occupancy.state is not State.FREE:
            break
        occupancy = root.probe(51, 0)
    assert (occupancy.state, occupancy.unknown_reason, occupancy.errno) == (
        State.UNKNOWN,
        UnknownReason.TIMED_OUT,
        0,
    )
    with pytest.raises(ProbeTimeoutError, match="^group 51: unknown: the probe timed out$") as error:
        occupancy.raise_unless_free()
    assert (error.value.errno, error.value.group) == (errno.ETIMEDOUT, 51)
    assert isinstance(error.value, TimeoutError)


def test_group_that_is_not_viable_can_be_free(node: Node, root: Root) -> None:
    node.do("add", address="0000:1b:00.1", group=51, driver="snd_hda_intel")
    assert root.probe(51).state is State.FREE
    assert not root.group(51).viable


def test_vm_with_one_of_two_devices_holds_the_group(node: Node, root: Root) -> None:
    node.do("add_gpu", address="0000:1c:00.0", group=51, numa_node=0)
    node.do("start_vm", addresses=["0000:1c:00.0"])
    assert (root.probe(51).state, root.peek(51)) == (State.HELD, Peek.LOOKS_HELD)


def test_only_a_probe_opens_and_only_once(node: Node, root: Root) -> None:
    root.scan()
    root.device("0000:1b:00.0")
    for group in (51, 52):
        root.group(group)
        root.members(group)
        root.peek(group)
    root.holders(range(51, 59))
    with root.watch(interval=0.01) as watch:
        for _ in range(20):
            watch.next_event(0.02)
        assert len(watch.groups()) == 8
    assert [node.opens(group) for group in range(51, 59)] == [0] * 8
    root.probe(51)
    root.probe(52, 30.0)
    assert [node.opens(group) for group in range(51, 54)] == [1, 1, 0]


def test_probing_watch_skips_assigned_groups(node: Node, root: Root) -> None:
    with root.watch(interval=0.01, probe=True) as watch:
        watch.set_assigned_groups([52])
        for _ in range(40):
            watch.next_event(0.02)
        group = watch.group(51)
        assert group is not None
        assert (group.occupancy.state, group.evidence) == (State.FREE, "open")
        assigned = watch.group(52)
        assert assigned is not None
        assert assigned.evidence == "enable"
    assert node.opens(51) >= 1
    assert node.opens(52) == 0


def test_threads_probe_concurrently(node: Node, root: Root) -> None:
    node.start_vm(51, 53, 55, 57)
    states: dict[int, set[State]] = {}

    def probe(group: int) -> None:
        states[group] = {root.probe(group, timeout).state for timeout in (None, 30.0) for _ in range(50)}

    threads = [threading.Thread(target=probe, args=(group,)) for group in range(51, 59)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == {group: {State.HELD if group % 2 else State.FREE} for group in range(51, 59)}


def test_kernel_without_group_nodes_is_detected(root: Root) -> None:
    assert root.has_group_nodes()
    with Node("--without-groups", "--eight-gpus") as node, Root(node.root) as other:
        assert not other.has_group_nodes()
        node.start_vm(52)
        assert (other.peek(51), other.peek(52)) == (Peek.LOOKS_FREE, Peek.LOOKS_HELD)
        assert other.probe(52).state is State.ABSENT
        # A watch uses the peek.
        with other.watch(interval=0.05) as watch:
            for event in watch:
                if event == GroupEvent(EventKind.HELD, 52):
                    break
