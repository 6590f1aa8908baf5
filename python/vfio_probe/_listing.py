"""What is said of each device: the look that `list` prints."""

from __future__ import annotations

import dataclasses
import sys

from vfio_probe._core import Device, Group, Holder, Root
from vfio_probe._enums import Evidence, Peek, State
from vfio_probe._errors import ProbeError

OPEN_TIMEOUT = 2.0
"""How long an open may take, in seconds."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """A group at one look; no number where a device is in none."""

    state: State = State.UNKNOWN
    evidence: Evidence = Evidence.NONE
    group: Group | None = None
    holders: tuple[Holder, ...] = ()


def complain(error: Exception) -> None:
    """Says what was left out, and goes on."""
    print(f"vfio_probe: left out: {error}", file=sys.stderr)


def look(root: Root, probe: bool) -> list[tuple[Device, Seen]]:
    """All bound devices with what is seen of their groups; opens none unless `probe`."""
    scan = root.scan()
    for error in scan.broken:
        complain(error)
    numbers = sorted({device.group for device in scan if device.group is not None})
    groups = {number: _look_at(root, number, probe) for number in numbers}
    held = [number for number, seen in groups.items() if seen.state is State.HELD]
    if held:
        try:
            holders = root.holders(held).holders
        except ProbeError as error:
            complain(error)
            holders = ()
        for number in held:
            of_group = tuple(holder for holder in holders if holder.group == number)
            groups[number] = dataclasses.replace(groups[number], holders=of_group)
    nowhere = Seen()
    return [(device, nowhere if device.group is None else groups[device.group]) for device in scan]


def _look_at(root: Root, number: int, probe: bool) -> Seen:
    try:
        group, peek = root.group(number), root.peek(number)
    except ProbeError as error:
        complain(error)
        group, peek = None, Peek.BLIND
    if probe:
        answer = root.probe(number, OPEN_TIMEOUT).state
        if answer is not State.UNKNOWN:
            return Seen(answer, Evidence.OPEN, group)
    if peek is Peek.BLIND:
        return Seen(group=group)
    state = State.HELD if peek is Peek.LOOKS_HELD else State.FREE
    return Seen(state, Evidence.ENABLE, group)
