"""The commands list, who, watch and wait."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from vfio_probe._core import Root, Watch
from vfio_probe._enums import EventKind, Evidence, InPod, PidNamespace, State
from vfio_probe._events import DeviceEvent, Event, GroupEvent
from vfio_probe._output import warn, write
from vfio_probe._table import layout, or_dash
from vfio_probe._values import Device, GroupSnapshot, Holder, ScanCoverage, Snapshot

PROBE_TIMEOUT = 2.0
"""Timeout of a probe in seconds."""

FOUND, NONE, UNKNOWN = 0, 1, 3
"""Exit codes. UNKNOWN: `who` found no holder, and not all processes of the host were searched."""


class CommandError(Exception):
    """A command failed. The text is the message for the user."""


class UsageError(Exception):
    """An argument of the command line is invalid. The text is the message for the user."""


def list_devices(root: Root, probe: bool, as_json: bool) -> int:
    """Prints the devices, the states of their groups and the holders."""
    snapshot = root.snapshot(PROBE_TIMEOUT if probe else None)
    for error in snapshot.errors:
        _warn(f"skipped: {error}")
    if snapshot.devices:
        for gap in _gaps(snapshot.coverage):
            _warn(f"holders may be missing: {gap}")
    if as_json:
        devices = [_device_json(device, _group_of_device(snapshot, device)) for device in snapshot]
        write(json.dumps({"devices": devices, "coverage": _coverage_json(snapshot.coverage)}))
    elif snapshot.devices:
        write(
            layout(("ADDRESS", "GROUP", "NUMA", "ID", "DRIVER", "STATE", "EVIDENCE", "NOTE"), _rows(snapshot))
        )
    else:
        write("No device is bound to a VFIO driver.")
    return 0


def who(root: Root, target: str, as_json: bool) -> int:
    """Prints the processes that hold a device or group."""
    group = _group_of(root, target)
    found = root.holders([group])
    if as_json:
        holders = [_holder_json(holder) for holder in found]
        write(json.dumps({"iommu_group": group, "holders": holders, **_coverage_json(found.coverage)}))
    else:
        if found.holders:
            rows = [
                (
                    str(holder.pid),
                    holder.command,
                    holder.via,
                    _pod(holder),
                    or_dash(holder.container_id),
                )
                for holder in found
            ]
            write(layout(("PID", "COMMAND", "VIA", "POD", "CONTAINER"), rows))
        else:
            write(f"No process found that holds group {group}.")
        for gap in _gaps(found.coverage):
            write(f"The list may be incomplete: {gap}.")
    if found.holders:
        return FOUND
    return NONE if found.coverage.complete else UNKNOWN


def watch(root: Root, interval: float, as_json: bool) -> int:
    """Prints events until the reader closes the pipe. Opens no device."""
    with root.watch(interval=interval) as changes:
        while True:
            event = changes.next_event()
            assert event is not None
            text = json.dumps(_event_json(changes, event)) if as_json else _plain(changes, event)
            if not write(text):
                return 0


def wait(root: Root, target: str, state: State, timeout: float | None, as_json: bool) -> int:
    """Waits until a group is free or held. Opens no device."""
    group = _group_of(root, target)
    with root.watch() as changes:
        wait_until = changes.wait_until_free if state is State.FREE else changes.wait_until_held
        reached = wait_until(group, timeout)
        watched = changes.group(group)
        known = State.UNKNOWN if watched is None else watched.occupancy.state
        holders = changes.holders(group) or ()
    if as_json:
        found = [_holder_json(holder) for holder in holders]
        write(json.dumps({"iommu_group": group, "state": known, "reached": reached, "holders": found}))
    else:
        by = ", ".join(f"pid {holder.pid} ({holder.command})" for holder in holders)
        write(f"group {group} is {known}" + (f" by {by}" if by else ""))
    return FOUND if reached else NONE


def _group_of_device(snapshot: Snapshot, device: Device) -> GroupSnapshot | None:
    return None if device.group is None else snapshot.group(device.group)


def _rows(snapshot: Snapshot) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for device in snapshot:
        group = _group_of_device(snapshot, device)
        rows.append(
            (
                device.id,
                or_dash(device.group),
                or_dash(device.numa_node),
                f"{device.vendor:04x}:{device.device:04x}",
                or_dash(device.driver),
                State.UNKNOWN if group is None else group.occupancy.state,
                Evidence.NONE if group is None else group.evidence,
                "" if group is None else _note(group),
            )
        )
    return rows


def _note(group: GroupSnapshot) -> str:
    notes = [f"pid {holder.pid} ({holder.command})" for holder in group.holders]
    notes.extend(f"not viable: {member.name} is bound to {member.driver}" for member in group.offenders)
    return ", ".join(notes)


def _pod(holder: Holder) -> str:
    return str(InPod.UNKNOWN) if holder.in_pod is InPod.UNKNOWN else or_dash(holder.pod_uid)


def _device_json(device: Device, group: GroupSnapshot | None) -> dict[str, Any]:
    return {
        "address": device.id,
        "vendor": device.vendor,
        "device": device.device,
        "class": device.class_code,
        "driver": device.driver,
        "iommu_group": device.group,
        "numa_node": device.numa_node,
        "kind": device.kind,
        "state": State.UNKNOWN if group is None else group.occupancy.state,
        "evidence": Evidence.NONE if group is None else group.evidence,
        "viable": group.viable if group is not None and group.members else None,
        "holders": [] if group is None else [_holder_json(holder) for holder in group.holders],
    }


def _holder_json(holder: Holder) -> dict[str, Any]:
    return {
        "pid": holder.pid,
        "command": holder.command,
        "uid": holder.uid,
        "started": None if holder.started is None else holder.started.isoformat(),
        "via": holder.via,
        "pod_uid": holder.pod_uid,
        "in_pod": holder.in_pod,
        "container_id": holder.container_id,
    }


def _coverage_json(coverage: ScanCoverage) -> dict[str, Any]:
    return {
        "processes": coverage.processes,
        "unreadable": coverage.unreadable,
        "unattributed": coverage.unattributed,
        "unsearched": coverage.unsearched,
        "pid_namespace": coverage.pid_namespace,
        "complete": coverage.complete,
    }


def _gaps(coverage: ScanCoverage) -> list[str]:
    """Returns what a search for holders could not see."""
    gaps = []
    if coverage.pid_namespace is PidNamespace.FOREIGN:
        gaps.append(
            "this is not the host's pid namespace, and processes outside of it are invisible; "
            "run in the host's (hostPID)"
        )
    if coverage.pid_namespace is PidNamespace.UNKNOWN:
        gaps.append(
            "/proc does not show whether it has the processes of the host's pid namespace; "
            "run as root, with the host's /proc"
        )
    if coverage.unreadable:
        gaps.append(f"{coverage.unreadable} of {coverage.processes} processes could not be read; run as root")
    if coverage.unsearched:
        gaps.append(f"{coverage.unsearched} processes were not searched within the budget; try again")
    if coverage.unattributed:
        gaps.append(
            f"{coverage.unattributed} open VFIO device descriptors cannot be attributed to a device; "
            "Linux 6.18 and newer can"
        )
    return gaps


def _group_of(root: Root, target: str) -> int:
    try:
        if re.fullmatch("[0-9]{1,10}", target):
            return root.group(int(target)).group
        device = root.device(target)
    except (ValueError, OverflowError):
        shown = repr(target)
        raise UsageError(
            "GROUP|ADDRESS: must be the number of a group, a PCI address such as 0000:3b:00.0 or an mdev "
            f"UUID, not {shown if len(shown) <= 80 else shown[:80] + '...'}"
        ) from None
    if device.group is None:
        raise CommandError(f"{device.id} has no IOMMU group; is the IOMMU disabled?")
    return device.group


def _members(changes: Watch, group: int) -> str:
    return ",".join(device.id for device in changes.devices() if device.group == group)


def _plain(changes: Watch, event: Event) -> str:
    if isinstance(event, DeviceEvent):
        return f"{event.kind:<8} {event.device}"
    if not isinstance(event, GroupEvent):
        return str(event.kind)
    by = ""
    if event.kind is EventKind.HELD:
        holders = changes.holders(event.group) or ()
        by = " by " + (
            ", ".join(f"pid {holder.pid} ({holder.command})" for holder in holders) or "an unknown process"
        )
    return f"{event.kind:<8} group {event.group} ({_members(changes, event.group)}){by}"


def _event_json(changes: Watch, event: Event) -> dict[str, Any]:
    group = event.group if isinstance(event, GroupEvent) else None
    device = event.device if isinstance(event, DeviceEvent) else None
    holders = () if group is None else changes.holders(group) or ()
    return {
        "time": round(time.time(), 3),
        "event": event.kind,
        "device": device if group is None else _members(changes, group),
        "group": group,
        "holders": [_holder_json(holder) for holder in holders],
    }


def _warn(text: str) -> None:
    warn(f"vfio-probe: {text}")
