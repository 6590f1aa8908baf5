"""Tests invalid arguments: the type of the exception, and a message that names the argument."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sim_node import Node

from vfio_probe import Root, Watch, names

NUMBERS = [
    (True, TypeError, "{} must be int, not bool"),
    (51.0, TypeError, "{} must be int, not float"),
    ("51", TypeError, "{} must be int, not str"),
    (None, TypeError, "{} must be int, not NoneType"),
    (-1, OverflowError, "{} must be between 0 and 4294967295"),
    (2**32, OverflowError, "{} must be between 0 and 4294967295"),
    (10**5000, OverflowError, "{} must be between 0 and 4294967295"),
]
NO_GROUP = "{} must not be 4294967295, which stands for no group; a device without an IOMMU has no group"
GROUP = [*NUMBERS, (2**32 - 1, ValueError, NO_GROUP)]
SECONDS = [
    (True, TypeError, "{} must be a number of seconds, not bool"),
    ("1", TypeError, "{} must be a number of seconds, not str"),
    (b"1", TypeError, "{} must be a number of seconds, not bytes"),
    (1j, TypeError, "{} must be a number of seconds, not complex"),
    (10**400, OverflowError, "{} is too large"),
]
TIMEOUTS = [
    *SECONDS,
    (-1, ValueError, "{} must be None or a number of seconds that is not negative"),
    (-0.001, ValueError, "{} must be None or a number of seconds that is not negative"),
    (float("nan"), ValueError, "{} must be None or a number of seconds that is not negative"),
    (float("-inf"), ValueError, "{} must be None or a number of seconds that is not negative"),
]
INTERVALS = [
    *SECONDS,
    *(
        (bad, ValueError, "{} must be between 0.001 and 86400 seconds")
        for bad in (0, -1, 0.0009, 86_401, float("nan"), float("inf"))
    ),
]
IDS = [
    (None, TypeError, "{} must be str, not NoneType"),
    (b"0000:1b:00.0", TypeError, "{} must be str, not bytes"),
    (51, TypeError, "{} must be str, not int"),
    *(
        (bad, ValueError, "{} must be a PCI address such as 0000:3b:00.0 or an mdev UUID, not " + repr(bad))
        for bad in ("", "51", "1b:00.0", "0000:1b:20.0", "0000:1b:00.0\n", "../../etc", "x\0y", "ü")
    ),
]
LISTS = [
    (None, TypeError, "{} must be an iterable, not NoneType"),
    (51, TypeError, "{} must be an iterable, not int"),
    ("51", TypeError, "{} must be an iterable, not str"),
    (b"51", TypeError, "{} must be an iterable, not bytes"),
]
GROUPS = [*LISTS, *(([51, bad], error, "an item of " + text) for bad, error, text in GROUP)]
PAIRS = [
    *LISTS,
    ([51], TypeError, "an item of {} must be a tuple (vendor, device), not int"),
    ([(1, 2, 3)], TypeError, "an item of {} must be a tuple (vendor, device), not tuple"),
    ([(True, 2)], TypeError, "the vendor of an item of {} must be int, not bool"),
    ([(1, "2")], TypeError, "the device of an item of {} must be int, not str"),
    ([(1, 65_536)], OverflowError, "the device of an item of {} must be between 0 and 65535"),
    ([(-1, 1)], OverflowError, "the vendor of an item of {} must be between 0 and 65535"),
]
PATHS = [
    (1, TypeError, "{} must be str or os.PathLike, not int"),
    (True, TypeError, "{} must be str or os.PathLike, not bool"),
    (b"/", TypeError, "{} must be str or os.PathLike, not bytes"),
    ("/\0", ValueError, "{} must not contain a null character"),
    (Path("a\0b"), ValueError, "{} must not contain a null character"),
]
PREDICATES: list[tuple[Any, type[Exception], str]] = [
    (bad, TypeError, "{} must be callable") for bad in (None, 51, "x")
]
Call = Callable[[Root, Watch, Any], object]
CALLS: list[tuple[str, Call, list[tuple[Any, type[Exception], str]]]] = [
    ("path", lambda _, __, bad: Root(bad), PATHS),
    ("id", lambda root, _, bad: root.device(bad), IDS),
    ("group", lambda root, _, bad: root.group(bad), GROUP),
    ("group", lambda root, _, bad: root.members(bad), GROUP),
    ("group", lambda root, _, bad: root.peek(bad), GROUP),
    ("group", lambda root, _, bad: root.probe(bad), GROUP),
    ("timeout", lambda root, _, bad: root.probe(51, bad), TIMEOUTS),
    ("groups", lambda root, _, bad: root.holders(bad), GROUPS),
    ("interval", lambda root, _, bad: root.watch(interval=bad), INTERVALS),
    ("timeout", lambda _, watch, bad: watch.next_event(bad), TIMEOUTS),
    ("group", lambda _, watch, bad: watch.group(bad), GROUP),
    ("group", lambda _, watch, bad: watch.holders(bad), GROUP),
    ("groups", lambda _, watch, bad: watch.set_assigned_groups(bad), GROUPS),
    ("group", lambda root, _, bad: root.device_nodes(bad), GROUP),
    ("device", lambda root, _, bad: root.hardware(bad), IDS),
    ("group", lambda _, watch, bad: watch.wait_until_free(bad), GROUP),
    ("group", lambda _, watch, bad: watch.wait_until_held(bad), GROUP),
    ("group", lambda _, watch, bad: asyncio.run(watch.wait_until_free_async(bad, 0)), GROUP),
    ("group", lambda _, watch, bad: asyncio.run(watch.wait_until_held_async(bad, 0)), GROUP),
    ("timeout", lambda _, watch, bad: watch.wait_until_free(51, bad), TIMEOUTS),
    ("timeout", lambda _, watch, bad: watch.wait_until_held(51, bad), TIMEOUTS),
    ("timeout", lambda _, watch, bad: watch.wait_for(bool, bad), TIMEOUTS),
    ("predicate", lambda _, watch, bad: watch.wait_for(bad), PREDICATES),
    ("predicate", lambda _, watch, bad: asyncio.run(watch.wait_for_async(bad)), PREDICATES),
    ("timeout", lambda _, watch, bad: asyncio.run(watch.next_event_async(bad)), TIMEOUTS),
    ("timeout", lambda _, watch, bad: asyncio.run(watch.wait_for_async(bool, bad)), TIMEOUTS),
    ("timeout", lambda _, watch, bad: asyncio.run(watch.wait_until_free_async(51, bad)), TIMEOUTS),
    ("probe_timeout", lambda root, _, bad: root.snapshot(bad), TIMEOUTS),
    ("ids", lambda _, __, bad: names(bad), PAIRS),
    ("path", lambda _, __, bad: names([], bad), PATHS),
]


def test_bad_arguments_are_refused_by_name(root: Root) -> None:
    with root.watch() as watch:
        for name, call, cases in CALLS:
            for bad, error, text in cases:
                with pytest.raises(error, match=f"^{re.escape(text.format(name))}$") as raised:
                    call(root, watch, bad)
                assert type(raised.value) is error


@pytest.mark.parametrize("name", ["probe", "uevents", "holders"])
def test_flags_must_be_bool(root: Root, name: str) -> None:
    bad: Any = {name: 1}
    with pytest.raises(TypeError, match=f"^{name} must be bool, not int$"):
        root.watch(**bad)


def test_exception_of_an_iterable_is_passed_on(root: Root) -> None:
    def fails() -> Any:
        yield 51
        raise LookupError("of its own")

    with pytest.raises(LookupError, match="of its own"):
        root.holders(fails())


def test_watch_cannot_be_constructed() -> None:
    with pytest.raises(TypeError):
        Watch()


def test_decimal_fraction_and_int_seconds_are_accepted(node: Node, root: Root) -> None:
    import decimal
    import fractions

    others: list[Any] = [decimal.Decimal(30), fractions.Fraction(30)]
    for seconds in others:
        assert root.probe(51, seconds).state == "free"
    with root.watch(interval=1) as watch:
        assert watch.next_event(0) is not None
        for seconds in [*others, float("inf"), 1e300]:
            assert asyncio.run(watch.wait_until_free_async(51, seconds))
    assert node.opens(51) == 2
