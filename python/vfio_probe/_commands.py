"""The operator's commands: list, who and watch."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

from vfio_probe._core import Device, Event, Holder, Looked, Root, Watch
from vfio_probe._enums import EventKind
from vfio_probe._listing import Seen, look
from vfio_probe._table import layout, or_dash


class CommandError(Exception):
    """Something is broken; its text says what."""


def list_devices(root: Root, probe: bool, as_json: bool) -> int:
    """Devices and who holds them."""
    seen = look(root, probe)
    if as_json:
        print(json.dumps({"devices": [_device_json(device, group) for device, group in seen]}))
    elif seen:
        print(layout(("ADDRESS", "GROUP", "NUMA", "ID", "DRIVER", "STATE", "BY", "NOTE"), _rows(seen)))
    else:
        print("No device is bound to a VFIO driver.")
    return 0


def who(root: Root, target: str, as_json: bool) -> int:
    """The processes that hold a device or group."""
    number = _group_of(root, target)
    found = root.holders([number])
    if as_json:
        holders = [_holder_json(holder) for holder in found]
        print(json.dumps({"iommu_group": number, "holders": holders, **_looked_json(found.looked)}))
    else:
        if found.holders:
            rows = [
                (
                    str(holder.pid),
                    holder.command,
                    holder.via,
                    or_dash(holder.pod_uid),
                    or_dash(holder.container_id),
                )
                for holder in found
            ]
            print(layout(("PID", "COMMAND", "BY", "POD", "CONTAINER"), rows))
        else:
            print(f"No process was found that holds group {number}.")
        _print_reach(found.looked)
    return 0 if found.holders else 1


def watch(root: Root, interval: float, as_json: bool) -> int:
    """What changes, as it changes; opens nothing."""
    with root.watch(interval=interval) as changes:
        while True:
            # The wait is no longer than a look takes to find out that nothing can be listed.
            event = changes.next_event(interval)
            if event is None:
                failure = changes.failure()
                if failure is not None:
                    raise failure
                continue
            text = json.dumps(_event_json(changes, event)) if as_json else _plain(changes, event)
            print(text, flush=True)


def _rows(seen: list[tuple[Device, Seen]]) -> list[tuple[str, ...]]:
    return [
        (
            device.id,
            or_dash(device.group),
            or_dash(device.numa_node),
            f"{device.vendor:04x}:{device.device:04x}",
            or_dash(device.driver),
            group.state,
            group.evidence,
            _note(group),
        )
        for device, group in seen
    ]


def _note(seen: Seen) -> str:
    notes = [f"pid {holder.pid} ({holder.command})" for holder in seen.holders]
    if seen.group is not None and not seen.group.viable:
        notes.append(f"not viable: {seen.group.offender} is bound to {seen.group.offender_driver}")
    return ", ".join(notes)


def _device_json(device: Device, seen: Seen) -> dict[str, Any]:
    return {
        "address": device.id,
        "vendor": device.vendor,
        "device": device.device,
        "class": device.class_code,
        "driver": device.driver,
        "iommu_group": device.group,
        "numa_node": device.numa_node,
        "kind": device.kind,
        "state": seen.state,
        "evidence": seen.evidence,
        "viable": None if seen.group is None else seen.group.viable,
        "holders": [_holder_json(holder) for holder in seen.holders],
    }


def _holder_json(holder: Holder) -> dict[str, Any]:
    return {
        "pid": holder.pid,
        "command": holder.command,
        "via": holder.via,
        "pod_uid": holder.pod_uid,
        "container_id": holder.container_id,
    }


def _looked_json(looked: Looked) -> dict[str, int]:
    return {
        "processes": looked.processes,
        "unreadable": looked.unreadable,
        "unattributed": looked.unattributed,
    }


def _print_reach(looked: Looked) -> None:
    if looked.unreadable:
        print(
            f"{looked.unreadable} of {looked.processes} processes could not be read: "
            "not found is not nobody (try as root)."
        )
    if looked.unattributed:
        print(
            f"{looked.unattributed} VFIO device descriptors are open "
            "whose device this kernel does not tell (6.18 does)."
        )


def _group_of(root: Root, target: str) -> int:
    if re.fullmatch("[0-9]{1,10}", target):
        number = int(target)
        root.group(number)
        return number
    device = root.device(target)
    if device.group is None:
        raise CommandError(f"{device.id} is in no IOMMU group: is the IOMMU off?")
    return device.group


def _members(changes: Watch, number: int) -> str:
    return ",".join(device.id for device in changes.devices() if device.group == number)


def _plain(changes: Watch, event: Event) -> str:
    if event.group is None:
        return f"{event.kind:<8} {event.device}" if event.device else str(event.kind)
    by = ""
    if event.kind is EventKind.HELD:
        holders = changes.holders(event.group) or ()
        by = " by " + (
            ", ".join(f"pid {holder.pid} ({holder.command})" for holder in holders) or "an unknown process"
        )
    return f"{event.kind:<8} group {event.group} ({_members(changes, event.group)}){by}"


def _event_json(changes: Watch, event: Event) -> dict[str, Any]:
    group = event.group
    holders = () if group is None else changes.holders(group) or ()
    return {
        "time": round(time.time(), 3),
        "event": event.kind,
        "device": event.device if group is None else _members(changes, group),
        "group": group,
        "holders": [_holder_json(holder) for holder in holders],
    }


def warn(text: str) -> None:
    """Says an error on standard error."""
    print(f"vfio_probe: {text}", file=sys.stderr)
