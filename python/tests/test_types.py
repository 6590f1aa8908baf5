"""Tests that mypy --strict narrows the events. The check of the types of the tests reads this file."""

import pytest
from sim_node import GPUS, Node
from typing_extensions import assert_never, assert_type

from vfio_probe import DeviceEvent, Event, EventKind, GroupEvent, Root, WatchEvent


def by_class(event: Event) -> str:
    if isinstance(event, DeviceEvent):
        assert_type(event.device, str)
        return event.device
    if isinstance(event, GroupEvent):
        assert_type(event.group, int)
        return str(event.group)
    assert_type(event, WatchEvent)
    return event.kind


def by_kind(event: Event) -> str:
    if event.kind is EventKind.BOUND or event.kind is EventKind.UNBOUND:
        return event.device
    if event.kind is EventKind.READY or event.kind is EventKind.RESCAN:
        return event.kind
    assert_type(event, GroupEvent)
    return str(event.group)


def by_pattern(event: Event) -> str:
    match event:
        case DeviceEvent(_, device):
            return device
        case GroupEvent(_, group):
            return str(group)
        case WatchEvent(kind):
            return kind
        case _:
            assert_never(event)


def test_events_narrow_by_class_kind_and_pattern(node: Node, root: Root) -> None:
    with root.watch() as watch:
        assert watch.wait_for(lambda watch: watch.ready, 30)
        events: list[Event] = list(iter(lambda: watch.next_event(0), None))
    expected = [*GPUS.values(), *map(str, GPUS), "ready"]
    for narrow in by_class, by_kind, by_pattern:
        assert sorted(map(narrow, events)) == sorted(expected)
    with pytest.raises(AttributeError):
        events[0].group  # type: ignore[union-attr]  # noqa: B018
