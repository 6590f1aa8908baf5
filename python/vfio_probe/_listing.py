"""Collects the devices with the state and the holders of their groups, for the command `list`."""

from __future__ import annotations

import dataclasses
import sys

from vfio_probe._core import Device, Group, Holder, Root
from vfio_probe._enums import Evidence, Peek, State
from vfio_probe._errors import ProbeError

PROBE_TIMEOUT = 2.0
"""Timeout of a probe in seconds."""


@dataclasses.dataclass(frozen=True)
class Observation:
    """The state of a group at one time. The defaults are those of a device without a group."""

    state: State = State.UNKNOWN
    evidence: Evidence = Evidence.NONE
    group: Group | None = None
    holders: tuple[Holder, ...] = ()


def report_skipped(error: Exception) -> None:
    """Prints an error about a device or group that the listing does not contain completely."""
    print(f"vfio_probe: skipped: {error}", file=sys.stderr)


def observe(root: Root, probe: bool) -> list[tuple[Device, Observation]]:
    """Returns all bound devices with the states of their groups. Opens a group only if `probe` is true."""
    scan = root.scan()
    for error in scan.errors:
        report_skipped(error)
    numbers = sorted({device.group for device in scan if device.group is not None})
    groups = {number: _observe_group(root, number, probe) for number in numbers}
    held = [number for number, observation in groups.items() if observation.state is State.HELD]
    if held:
        try:
            holders = root.holders(held).holders
        except ProbeError as error:
            report_skipped(error)
            holders = ()
        for number in held:
            of_group = tuple(holder for holder in holders if holder.group == number)
            groups[number] = dataclasses.replace(groups[number], holders=of_group)
    no_group = Observation()
    return [(device, no_group if device.group is None else groups[device.group]) for device in scan]


def _observe_group(root: Root, number: int, probe: bool) -> Observation:
    try:
        group, peek = root.group(number), root.peek(number)
    except ProbeError as error:
        report_skipped(error)
        group, peek = None, Peek.UNAVAILABLE
    if probe:
        state = root.probe(number, PROBE_TIMEOUT).state
        if state is not State.UNKNOWN:
            return Observation(state, Evidence.OPEN, group)
    if peek is Peek.UNAVAILABLE:
        return Observation(group=group)
    state = State.HELD if peek is Peek.LOOKS_HELD else State.FREE
    return Observation(state, Evidence.ENABLE, group)
