"""The commands list, who and watch."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

from vfio_probe._core import Device, Event, Holder, Root, ScanCoverage, Watch
from vfio_probe._enums import EventKind
from vfio_probe._listing import Observation, observe
from vfio_probe._table import layout, or_dash


class CommandError(Exception):
    """A command failed. The text is the message for the user."""


def list_devices(root: Root, probe: bool, as_json: bool) -> int:
    """Prints the devices, the states of their groups and the holders."""
    observed = observe(root, probe)
    if as_json:
        print(json.dumps({"devices": [_device_json(device, group) for device, group in observed]}))
    elif observed:
        print(
            layout(("ADDRESS", "GROUP", "NUMA", "ID", "DRIVER", "STATE", "EVIDENCE", "NOTE"), _rows(observed))
        )
    else:
        print("No device is bound to a VFIO driver.")
    return 0


def who(root: Root, target: str, as_json: bool) -> int:
    """Prints the processes that hold a device or group."""
    number = _group_of(root, target)
    found = root.holders([number])
    if as_json:
        holders = [_holder_json(holder) for holder in found]
        print(json.dumps({"iommu_group": number, "holders": holders, **_coverage_json(found.coverage)}))
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
            print(layout(("PID", "COMMAND", "VIA", "POD", "CONTAINER"), rows))
        else:
            print(f"No process found that holds group {number}.")
        _print_coverage(found.coverage)
    return 0 if found.holders else 1


def watch(root: Root, interval: float, as_json: bool) -> int:
    """Prints events until the reader closes the pipe. Opens no device."""
    with root.watch(interval=interval) as changes:
        while True:
            # Returns at least once per interval, so that a failed pass ends the command.
            event = changes.next_event(interval)
            if event is None:
                failure = changes.failure()
                if failure is not None:
                    raise failure
                continue
            text = json.dumps(_event_json(changes, event)) if as_json else _plain(changes, event)
            print(text, flush=True)


def _rows(observed: list[tuple[Device, Observation]]) -> list[tuple[str, ...]]:
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
        for device, group in observed
    ]


def _note(observed: Observation) -> str:
    notes = [f"pid {holder.pid} ({holder.command})" for holder in observed.holders]
    if observed.group is not None and not observed.group.viable:
        notes.append(f"not viable: {observed.group.offender} is bound to {observed.group.offender_driver}")
    return ", ".join(notes)


def _device_json(device: Device, observed: Observation) -> dict[str, Any]:
    return {
        "address": device.id,
        "vendor": device.vendor,
        "device": device.device,
        "class": device.class_code,
        "driver": device.driver,
        "iommu_group": device.group,
        "numa_node": device.numa_node,
        "kind": device.kind,
        "state": observed.state,
        "evidence": observed.evidence,
        "viable": None if observed.group is None else observed.group.viable,
        "holders": [_holder_json(holder) for holder in observed.holders],
    }


def _holder_json(holder: Holder) -> dict[str, Any]:
    return {
        "pid": holder.pid,
        "command": holder.command,
        "via": holder.via,
        "pod_uid": holder.pod_uid,
        "container_id": holder.container_id,
    }


def _coverage_json(coverage: ScanCoverage) -> dict[str, int]:
    return {
        "processes": coverage.processes,
        "unreadable": coverage.unreadable,
        "unattributed": coverage.unattributed,
    }


def _print_coverage(coverage: ScanCoverage) -> None:
    if coverage.unreadable:
        print(
            "The list may be incomplete: "
            f"{coverage.unreadable} of {coverage.processes} processes could not be read (try as root)."
        )
    if coverage.unattributed:
        print(
            "The list may be incomplete: this kernel does not report the devices of "
            f"{coverage.unattributed} open VFIO device descriptors (kernel 6.18 does)."
        )


def _group_of(root: Root, target: str) -> int:
    if re.fullmatch("[0-9]{1,10}", target):
        number = int(target)
        root.group(number)
        return number
    device = root.device(target)
    if device.group is None:
        raise CommandError(f"{device.id} has no IOMMU group; is the IOMMU disabled?")
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
    """Prints an error to standard error."""
    print(f"vfio_probe: {text}", file=sys.stderr)
