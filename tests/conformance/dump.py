"""`dump.py ROOT` prints all results of the Python module for a tree as JSON, for the comparison.

`dump.py ROOT unprobed` prints what calls report that open no group.
`dump.py ROOT errors CALL ARGUMENT...` makes calls with bad input and prints a list of their reports.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from vfio_probe import (
    Device,
    EventKind,
    GroupSnapshot,
    Holder,
    Kind,
    Member,
    Occupancy,
    ProbeError,
    Root,
    Watch,
    names,
)

Document = dict[str, Any]


def error_of(error: ProbeError) -> Document:
    """Converts an error."""
    return {
        "device": error.device,
        "group": error.group,
        "kind": error.kind.value,
        "errno": error.errno,
        "text": str(error),
    }


def device_of(device: Device) -> Document:
    """Converts a device. In Python the field is `class_code`, because `class` is a keyword."""
    same = (
        *("id", "vendor", "device", "subsystem_vendor", "subsystem_device", "driver", "group", "numa_node"),
        *("vfs", "cdev", "vgpu_type", "parent"),
    )
    return {
        **{name: getattr(device, name) for name in same},
        "class": device.class_code,
        "sriov": device.sriov.value,
        "kind": device.kind.value,
    }


def member_of(member: Member) -> Document:
    """Converts a member of a group."""
    return {"name": member.name, "driver": member.driver, "vfio": member.vfio, "offends": member.offends}


def occupancy_of(occupancy: Occupancy) -> Document:
    """Converts the result of a probe."""
    return {
        "state": occupancy.state.value,
        "unknown_reason": None if occupancy.unknown_reason is None else occupancy.unknown_reason.value,
        "errno": occupancy.errno,
    }


def group_of(root: Root, number: int) -> Document:
    """Reads and converts a group."""
    occupancy = {"group": number, **occupancy_of(root.probe(number))}
    try:
        group, members = root.group(number), root.members(number)
    except ProbeError as error:
        return {**occupancy, "error": error_of(error)}
    try:
        peek: str | Document = root.peek(number).value
    except ProbeError as error:
        peek = error_of(error)
    return {
        **occupancy,
        "viable": group.viable,
        "unreadable": group.unreadable,
        "offender": group.offender,
        "offender_driver": group.offender_driver,
        "offenders": group.offenders,
        "members": sorted((member_of(member) for member in members), key=lambda member: str(member["name"])),
        "errors": sorted(str(error) for error in members.errors),
        "peek": peek,
    }


def holder_of(holder: Holder) -> Document:
    """Converts a holder."""
    same = ("group", "pid", "start_time", "command", "pod_uid", "container_id")
    words = {"via": holder.via.value, "in_pod": holder.in_pod.value}
    started = None if holder.started is None else int(holder.started.timestamp())
    return {**{name: getattr(holder, name) for name in same}, **words, "uid": holder.uid, "started": started}


def seen_of(group: GroupSnapshot) -> Document:
    """Converts a group of a snapshot."""
    return {
        "group": group.group,
        "state": group.occupancy.state.value,
        "evidence": group.evidence.value,
        "holders": [holder.pid for holder in group.holders],
    }


def dump(path: str) -> Document:
    """Returns the whole document."""
    try:
        root = Root(path)
        scan = root.scan()
    except ProbeError as error:
        return {"error": error_of(error)}
    with root:
        numbers = sorted({device.group for device in scan if device.group is not None})
        holders = root.holders(numbers)
        coverage = holders.coverage
        return {
            "group_nodes": root.has_group_nodes(),
            "devices": sorted((device_of(device) for device in scan), key=lambda device: str(device["id"])),
            "errors": sorted(
                (error_of(error) for error in scan.errors), key=lambda error: str(error["text"])
            ),
            "groups": [group_of(root, number) for number in numbers],
            "holders": sorted(
                (holder_of(holder) for holder in holders), key=lambda each: (each["group"], each["pid"])
            ),
            "coverage": {
                "processes": coverage.processes,
                "unreadable": coverage.unreadable,
                "unattributed": coverage.unattributed,
                "unsearched": coverage.unsearched,
                "pid_namespace": coverage.pid_namespace.value,
                "complete": coverage.complete,
            },
            "snapshot": [seen_of(group) for group in root.snapshot().groups],
        }


def events_of(watch: Watch) -> list[str]:
    """Returns the words of the events up to `ready`, sorted; it is the last."""
    words = []
    while (event := watch.next_event(timeout=20)) is not None and event.kind is not EventKind.READY:
        words.append(f"{event.kind} {getattr(event, 'device', None) or getattr(event, 'group', None) or ''}")
    return [*sorted(words), "ready"] if event is not None else sorted(words)


def nodes_of(root: Root, group: int) -> Document:
    """Converts the device nodes of a group."""
    try:
        nodes = root.device_nodes(group)
    except ProbeError as error:
        return {"group": group, "error": error_of(error)}
    return {
        "group": group,
        "container": nodes.container,
        "node": nodes.group_node,
        "iommufd": nodes.iommufd,
        "devices": [[device, node] for device, node in nodes.devices if node is not None],
    }


def hardware_of(root: Root, device: str) -> Document:
    """Converts the hardware of a PCI function."""
    try:
        hardware = root.hardware(device)
    except ProbeError as error:
        return {"device": device, "error": error_of(error)}
    return {"device": device, "presence": hardware.presence.value, "fatal_errors": hardware.fatal_errors}


def unprobed(path: str) -> Document:
    """Returns the document of the calls that open no group."""
    try:
        root = Root(path)
        scan = root.scan()
    except ProbeError as error:
        return {"error": error_of(error)}
    with root, root.watch() as watch:
        groups = sorted({device.group for device in scan if device.group is not None})
        return {
            "events": events_of(watch),
            "ready": watch.ready,
            "waits": [
                {
                    "group": group,
                    "free": watch.wait_until_free(group, timeout=0),
                    "held": watch.wait_until_held(group, timeout=0),
                }
                for group in groups
            ],
            "snapshot": [group.group for group in root.snapshot().groups],
            "nodes": [nodes_of(root, group) for group in groups],
            "hardware": [
                hardware_of(root, device.id)
                for device in sorted(scan, key=lambda device: device.id)
                if device.kind is not Kind.MDEV
            ],
        }


def state_of(occupancy: Occupancy) -> str:
    """Returns the state of a probe, and why it is not known."""
    if occupancy.unknown_reason is None:
        return occupancy.state.value
    reason = occupancy.unknown_reason.value
    return f"unknown, {reason} {occupancy.errno}" if reason == "errno" else f"unknown, {reason}"


def watched(root: Root, group: int) -> str:
    """Returns the state of a group in a watch that is ready."""
    with root.watch() as watch:
        watch.wait_for(lambda _: True, 20)
        known = watch.group(group)
        return "none" if known is None else state_of(known.occupancy)


def wait_free(root: Root, group: int) -> str:
    """Returns whether a watch knows at once that the group is free."""
    with root.watch() as watch:
        return str(watch.wait_until_free(group, 0)).lower()


def error_of_scan(root: Root, device: str) -> str:
    """Raises the error of a device in a scan."""
    for error in root.scan().errors:
        if error.device == device:
            raise error
    return "no error"


def closed_root(root: Root) -> str:
    """Uses a closed root."""
    root.close()
    return str(root.peek(51))


def closed_watch(root: Root) -> str:
    """Uses a closed watch."""
    watch = root.watch()
    watch.close()
    return str(watch.devices())


def escaped(path: str) -> str:
    """Shows each byte that is not printable ASCII as %FF."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"%{byte:02X}" for byte in os.fsencode(path))


def before_space(text: str) -> int:
    """Returns the number at the start."""
    return int(text.split(" ")[0])


def seconds(text: str) -> float:
    """Returns the milliseconds after the last space in seconds."""
    return int(text.split(" ")[-1]) / 1000


CALLS: dict[str, Callable[[Root, str], str]] = {
    "open": lambda _, path: f"a root {Root(path)}",
    "open_nul": lambda _, __: f"a root {Root('a' + chr(0) + 'b')}",
    "names": lambda _, path: f"names {names([(0x10DE, 0x2330)], path)}",
    "device": lambda root, device: f"a device {root.device(device)}",
    "hardware": lambda root, device: f"hardware {root.hardware(device)}",
    "scan": error_of_scan,
    "group": lambda root, group: f"a group {root.group(int(group))}",
    "members": lambda root, group: f"members {root.members(int(group))}",
    "peek": lambda root, group: root.peek(int(group)).value,
    "probe": lambda root, group: state_of(root.probe(int(group))),
    "probe_within": lambda root, text: state_of(root.probe(before_space(text), seconds(text))),
    "nodes": lambda root, group: f"group node {root.device_nodes(int(group)).group_node or 'none'}",
    "holders": lambda root, group: f"holders {root.holders([int(group)])}",
    "snapshot_within": lambda root, text: f"a snapshot {root.snapshot(seconds(text))}",
    "interval": lambda root, text: f"a watch {root.watch(interval=seconds(text))}",
    "watch_group": lambda root, group: watched(root, int(group)),
    "wait_free": lambda root, group: wait_free(root, int(group)),
    "closed_root": lambda root, _: closed_root(root),
    "closed_watch": lambda root, _: closed_watch(root),
}


def bad_input(path: str, call: str, argument: str) -> Document | None:
    """Makes a call and reports its result or exception. None if Python has no such call."""
    if call not in CALLS:
        return None
    with Root(path) as root:
        try:
            return {"result": CALLS[call](root, argument)}
        except ProbeError as error:
            place = None if error.filename is None else escaped(error.filename)
            return {"type": type(error).__name__, **error_of(error), "path": place}
        except (TypeError, ValueError, OverflowError) as error:
            return {"type": type(error).__name__, "text": str(error)}


def main(path: str, mode: str = "", *calls: str) -> object:
    """Returns the document for the command line."""
    if mode == "errors":
        return [bad_input(path, *pair) for pair in zip(calls[::2], calls[1::2], strict=True)]
    return unprobed(path) if mode == "unprobed" else dump(path)


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
