"""The events of a watch: one class for each thing that an event is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from vfio_probe._enums import EventKind
from vfio_probe._value import Value


@dataclass(frozen=True, slots=True)
class DeviceEvent(Value):
    """An event about a device.

    Attributes:
        kind: Whether the device was bound or unbound.
        device: The PCI address or the mdev UUID of the device.
    """

    kind: Literal[EventKind.BOUND, EventKind.UNBOUND]
    device: str


@dataclass(frozen=True, slots=True)
class GroupEvent(Value):
    """An event about a group.

    Attributes:
        kind: Whether the group became held or free, or changed otherwise.
        group: The number of the IOMMU group.
    """

    kind: Literal[EventKind.HELD, EventKind.FREED, EventKind.CHANGED]
    group: int


@dataclass(frozen=True, slots=True)
class WatchEvent(Value):
    """An event about the watch itself.

    Attributes:
        kind: Whether the first pass is complete, or events were lost.
    """

    kind: Literal[EventKind.READY, EventKind.RESCAN]


Event: TypeAlias = DeviceEvent | GroupEvent | WatchEvent
"""An event of a watch. isinstance() and `event.kind is ...` narrow it."""
