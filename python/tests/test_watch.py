"""Tests the watch: iteration, descriptor, timeouts, threads and close."""

import itertools
import os
import selectors
import threading
import time
from collections.abc import Iterator
from typing import Literal

import pytest
from sim_node import GPUS, Node, descriptors, eventually

from vfio_probe import (
    DeviceEvent,
    Event,
    EventKind,
    GroupEvent,
    MissingError,
    Peek,
    Root,
    State,
    Watch,
    WatchEvent,
)


@pytest.fixture
def watch(root: Root) -> Iterator[Watch]:
    """A watch with a short interval, after its first events."""
    with root.watch(interval=0.02) as watch:
        drain(watch)
        yield watch


def drain(watch: Watch) -> list[Event]:
    """Returns all queued events."""
    return list(iter(lambda: watch.next_event(0), None))


def test_first_events_report_the_current_state(root: Root) -> None:
    with root.watch() as watch:
        events = drain(watch)
        assert sorted(event.device for event in events if isinstance(event, DeviceEvent)) == sorted(
            GPUS.values()
        )
        assert sorted(event for event in events if isinstance(event, GroupEvent)) == [
            GroupEvent(EventKind.FREED, group) for group in GPUS
        ]
        assert events[-1] == WatchEvent(EventKind.READY)
        assert watch.ready
        assert [device.id for device in watch.devices()] == list(GPUS.values())
        assert [group.group for group in watch.groups()] == list(GPUS)
        assert watch.errors() == ()
        assert watch.failure() is None


def test_held_event_has_holder_and_freed_follows(node: Node, watch: Watch) -> None:
    pid = node.start_vm(51)
    event = watch.next_event(30)
    assert event == GroupEvent(EventKind.HELD, 51)
    holders = watch.holders(51)
    assert holders is not None
    assert [holder.pid for holder in holders] == [pid]
    group = watch.group(51)
    assert group is not None
    assert (group.occupancy.state, group.evidence, group.peek) == (State.HELD, "enable", Peek.LOOKS_HELD)
    assert (group.viable, group.offender, group.offender_driver) == (True, None, None)
    assert [member.name for member in group.members] == ["0000:1b:00.0"]
    node.kill_vm(pid)
    freed = watch.next_event(30)
    assert freed == GroupEvent(EventKind.FREED, 51)
    assert watch.holders(51) is None


def test_since_is_a_monotonic_time(node: Node, watch: Watch) -> None:
    before = time.monotonic()
    node.start_vm(51)
    assert watch.next_event(30) is not None
    first, second = watch.group(51), watch.group(51)
    assert first is not None
    assert second is not None
    assert before <= first.since <= time.monotonic()
    assert first.since == second.since
    other = watch.group(52)
    assert other is not None
    assert other.since <= before


def test_bound_unbound_and_changed_are_reported(node: Node, watch: Watch) -> None:
    node.do("unbind", address="0000:df:00.0")
    event = watch.next_event(30)
    assert event == DeviceEvent(EventKind.UNBOUND, "0000:df:00.0")
    assert watch.group(58) is None
    node.do("bind", address="0000:df:00.0", driver="vfio-pci")
    event = watch.next_event(30)
    assert event == DeviceEvent(EventKind.BOUND, "0000:df:00.0")
    node.do("delete", path="dev/vfio/51")
    gone = next(event for event in watch if isinstance(event, GroupEvent) and event.group == 51)
    assert gone.kind is EventKind.CHANGED
    group = watch.group(51)
    assert group is not None
    assert (group.occupancy.state, group.evidence) == (State.ABSENT, "node")
    with pytest.raises(MissingError):
        group.occupancy.raise_unless_free()


def test_values_of_unchanged_groups_and_devices_are_shared(node: Node, watch: Watch) -> None:
    groups, devices = watch.groups(), watch.devices()
    assert [group.group for group in groups] == [device.group for device in devices] == list(GPUS)
    for group in groups:
        assert watch.group(group.group) is group
    assert all(one is other for one, other in zip(watch.groups(), groups, strict=True))
    assert all(one is other for one, other in zip(watch.devices(), devices, strict=True))
    pid = node.start_vm(51)
    assert watch.wait_until_held(51, 30)
    held = watch.group(51)
    assert held is not None
    assert (held.occupancy.state, groups[0].occupancy.state) == (State.HELD, State.FREE)
    assert watch.groups()[1] == groups[1]
    node.kill_vm(pid)
    assert watch.wait_until_free(51, 30)
    free = watch.group(51)
    assert free is not None
    assert (free.occupancy.state, free.since > held.since) == (State.FREE, True)


def test_values_follow_devices_that_leave_and_return(node: Node, watch: Watch) -> None:
    for driver in ("vfio-pci", "nvgrace_gpu_vfio_pci"):
        node.do("unbind", address="0000:df:00.0")
        assert watch.wait_for(lambda watch: watch.group(58) is None, 30)
        assert [device.group for device in watch.devices()] == [each.group for each in watch.groups()]
        assert len(watch.devices()) == 7
        node.do("bind", address="0000:df:00.0", driver=driver)
        assert watch.wait_for(lambda watch: watch.group(58) is not None, 30)
        assert (watch.devices()[-1].driver, watch.devices()[-1].group) == (driver, 58)
        last = watch.group(58)
        assert last is not None
        assert [member.driver for member in last.members] == [driver]


def test_iteration_yields_events(node: Node, watch: Watch) -> None:
    node.start_vm(51)
    node.start_vm(52)
    events = itertools.islice(watch, 2)
    assert set(events) == {GroupEvent(EventKind.HELD, 51), GroupEvent(EventKind.HELD, 52)}
    assert iter(watch) is watch


def test_watch_works_with_selectors(node: Node, watch: Watch) -> None:
    pid = node.start_vm(51)
    seen: list[Event] = []
    with selectors.DefaultSelector() as selector:
        selector.register(watch, selectors.EVENT_READ)
        while len(seen) < 2:
            assert selector.select(30)
            events = drain(watch)
            seen += events
            if any(event.kind is EventKind.HELD for event in events):
                node.kill_vm(pid)
    assert seen == [GroupEvent(EventKind.HELD, 51), GroupEvent(EventKind.FREED, 51)]


def test_next_event_returns_none_after_its_timeout(watch: Watch) -> None:
    assert watch.next_event(0) is None
    assert watch.next_event(timeout=0.0) is None
    before = time.monotonic()
    assert watch.next_event(0.2) is None
    assert time.monotonic() - before >= 0.2


def test_failed_pass_is_raised_and_the_watch_goes_on(node: Node, watch: Watch) -> None:
    node.do("delete", path="sys/class/vfio-dev")
    node.do("delete", path="sys/bus/pci/drivers")
    for _ in range(2):
        with pytest.raises(MissingError, match="^sys/bus/pci/drivers: No such file or directory$"):
            watch.next_event(30)
    with pytest.raises(MissingError):
        next(watch)
    with pytest.raises(MissingError):
        watch.wait_until_held(51, 30)
    failure = watch.failure()
    assert isinstance(failure, MissingError)
    assert str(failure).startswith("sys/bus/pci/drivers: No such file")
    assert len(watch.devices()) == 8


def test_unreadable_device_is_in_errors(node: Node, root: Root) -> None:
    node.do("write", path="sys/bus/pci/devices/0000:4e:00.0/uevent", content="nonsense")
    with root.watch() as watch:
        drain(watch)
        assert [error.device for error in watch.errors()] == ["0000:4e:00.0"]
        assert len(watch.devices()) == 7


def test_watch_without_holders_has_none(node: Node, root: Root) -> None:
    node.start_vm(51)
    with root.watch(holders=False, uevents=False) as watch:
        assert EventKind.HELD in {event.kind for event in drain(watch)}
        assert watch.holders(51) is None


def test_closed_watch_is_refused(root: Root) -> None:
    with root.watch() as watch:
        assert not watch.closed
    assert watch.closed
    watch.close()
    for call in (
        watch.next_event,
        lambda: watch.next_event(0),
        watch.fileno,
        watch.devices,
        watch.groups,
        lambda: watch.group(51),
        lambda: watch.holders(51),
        lambda: watch.set_assigned_groups([]),
        watch.errors,
        watch.failure,
        lambda: iter(watch),
        watch.__aiter__,
        watch.__enter__,
        lambda: watch.ready,
        lambda: watch.wait_for(bool),
        lambda: watch.wait_until_free(51),
    ):
        with pytest.raises(ValueError, match="^the watch is closed$"):
            call()
    # A loop in progress ends.
    with pytest.raises(StopIteration):
        next(watch)


def test_close_wakes_waiting_threads(root: Root) -> None:
    watch = root.watch(interval=86_400)
    drain(watch)
    ends: list[str] = []

    def follow() -> None:
        for _ in watch:
            ends.append("an event")
        ends.append("end")

    def wait() -> None:
        try:
            watch.next_event()
        except ValueError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=target) for target in (follow, follow, wait, wait)]
    for thread in threads:
        thread.start()
    watch.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    # A thread that starts late finds the watch closed: iter() and next_event() raise the same error.
    assert sorted(set(ends)) in (["end", "the watch is closed"], ["end"], ["the watch is closed"])


def test_watch_outlives_its_root(node: Node) -> None:
    with Root(node.root) as root:
        watch = root.watch(interval=0.02)
    with watch:
        drain(watch)
        node.start_vm(51)
        event = watch.next_event(30)
        assert event == GroupEvent(EventKind.HELD, 51)


def test_each_event_goes_to_one_thread(node: Node, watch: Watch) -> None:
    seen: list[Event] = []
    states = []

    def follow() -> None:
        for event in watch:
            seen.append(event)

    def read() -> None:
        while not watch.closed:
            try:
                states.append((len(watch.devices()), len(watch.groups())))
            except ValueError:
                return

    threads = [threading.Thread(target=target) for target in [follow] * 6 + [read] * 2]
    for thread in threads:
        thread.start()
    eventually(lambda: len(states) > 2)
    pids = [node.start_vm(group) for group in GPUS]
    eventually(lambda: len(seen) == 8)
    for pid in pids:
        node.kill_vm(pid)
    eventually(lambda: len(seen) == 16)
    watch.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    kinds: tuple[Literal[EventKind.HELD], Literal[EventKind.FREED]] = (EventKind.HELD, EventKind.FREED)
    assert len(seen) == 16
    assert set(seen) == {GroupEvent(kind, group) for group in GPUS for kind in kinds}
    assert set(states) == {(8, 8)}


def test_polled_watch_shows_all_news_beside_four_waits(node: Node, root: Root) -> None:
    # The timer never expires during the test, so a thread that missed its news would wait until its limit.
    with root.watch(interval=86_400) as watch, selectors.DefaultSelector() as selector:
        drain(watch)
        selector.register(watch, selectors.EVENT_READ)
        for number in range(8):
            group = 90 + number
            free: list[bool] = []

            def wait(group: int = group, free: list[bool] = free) -> None:
                free.append(watch.wait_until_free(group, 30))

            threads = [threading.Thread(target=wait) for _ in range(4)]
            for thread in threads:
                thread.start()
            node.do("add_gpu", address=f"0000:f{number}:00.0", group=group, numa_node=0)
            # The watch saw the group's node before the device was there, perhaps. Now it is: a pass finds it.
            node.do("write", path=f"dev/vfio/signal-{number}", content="")
            seen: list[Event] = []
            while GroupEvent(EventKind.FREED, group) not in seen:
                assert selector.select(30), f"round {number}: the poller missed its event"
                seen += drain(watch)
            for thread in threads:
                thread.join(30)
            assert free == [True] * 4


def test_polled_descriptor_stays_readable_until_its_own_call(node: Node, watch: Watch) -> None:
    # The event comes with the result of the search for holders, so a wait for that has taken in the event.
    node.start_vm(51)
    assert watch.wait_for(lambda watch: watch.holders(51) is not None, 30)
    with selectors.DefaultSelector() as selector:
        selector.register(watch, selectors.EVENT_READ)
        assert selector.select(0), "a wait has taken in the change"
        assert drain(watch) == [GroupEvent(EventKind.HELD, 51)]
        node.start_vm(52)
        assert watch.wait_for(lambda watch: watch.holders(52) is not None, 30)
        assert selector.select(0)
        # A call that does not wait is one of the thread that polls. It may find another tick of the timer.
        while selector.select(0):
            assert watch.wait_until_held(51, 0)
        assert drain(watch) == [GroupEvent(EventKind.HELD, 52)]


def test_no_descriptor_leaks(node: Node) -> None:
    before = descriptors()
    for _ in range(3):
        with Root(node.root) as root:
            root.scan()
            root.peek(51)
            root.probe(51)
            root.probe(51, 30)
            root.holders([51])
            with root.watch(interval=0.01, probe=True) as watch:
                drain(watch)
                watch.next_event(0.05)
                assert os.get_inheritable(watch.fileno()) is False
                assert descriptors() > before
        # A watch and a root that are dropped without close().
        with pytest.warns(ResourceWarning, match="^unclosed (root|watch)"):
            drain(Root(node.root).watch())
    # The helper thread of the probe with a timeout uses the root until it ends.
    eventually(lambda: descriptors() == before)


def test_wait_until_held_and_free(node: Node, root: Root) -> None:
    with root.watch(interval=0.02) as watch:
        assert not watch.ready
        assert watch.wait_until_free(51, 30)
        assert watch.ready
        assert not watch.wait_until_held(51, 0)
        assert not watch.wait_until_held(51, 0.05)
        # A group without a bound device is neither.
        assert not watch.wait_until_free(999, 0)
        pid = node.start_vm(51)
        assert watch.wait_until_held(51, 30)
        node.kill_vm(pid)
        assert watch.wait_until_free(51)
        events = drain(watch)
        assert events.count(WatchEvent(EventKind.READY)) == 1
        assert events[-2:] == [GroupEvent(EventKind.HELD, 51), GroupEvent(EventKind.FREED, 51)]


def test_wait_for_calls_the_predicate_after_each_change(node: Node, root: Root) -> None:
    calls = []

    def held(watch: Watch) -> bool:
        calls.append(watch.ready)
        return any(group.occupancy.state is State.HELD for group in watch.groups())

    with root.watch(interval=0.02) as watch:
        assert not watch.wait_for(held, 0.1)
        assert calls == [True]
        node.start_vm(51)
        assert watch.wait_for(held, 30)
        with pytest.raises(LookupError, match="of its own"):
            watch.wait_for(fails, 30)
        with pytest.raises(TypeError, match="^predicate must be callable$"):
            watch.wait_for(None)  # type: ignore[arg-type]


def fails(_: Watch) -> bool:
    raise LookupError("of its own")


def test_close_ends_a_wait(root: Root) -> None:
    ends: list[str] = []
    with root.watch(interval=86_400) as watch:

        def wait() -> None:
            try:
                watch.wait_until_held(51)
            except ValueError as error:
                ends.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        watch.close()
        thread.join(30)
    assert ends == ["the watch is closed"]


def test_forgotten_handles_are_resource_warnings(node: Node) -> None:
    with pytest.warns(ResourceWarning, match="^unclosed root /"):
        Root(node.root)
    with Root(node.root) as root, pytest.warns(ResourceWarning, match="^unclosed watch; "):
        root.watch()
