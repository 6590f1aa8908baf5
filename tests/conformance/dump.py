"""`dump.py ROOT` says in JSON what the Python module tells of a tree, to be compared with other languages."""

import json
import sys
from typing import Any

from vfio_probe import Device, Holder, Member, Occupancy, ProbeError, Root

Document = dict[str, Any]


def error_of(error: ProbeError) -> Document:
    """An error, raised or given as a value."""
    return {
        "device": error.device,
        "group": error.group,
        "kind": error.kind.value,
        "errno": error.errno,
        "text": str(error),
    }


def device_of(device: Device) -> Document:
    """A device; its class is `class_code` in Python, where `class` is a keyword."""
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
    """A group's member."""
    return {"name": member.name, "driver": member.driver, "vfio": member.vfio}


def occupancy_of(occupancy: Occupancy) -> Document:
    """What an open said."""
    return {
        "state": occupancy.state.value,
        "why": None if occupancy.why is None else occupancy.why.value,
        "errno": occupancy.errno,
    }


def group_of(root: Root, number: int) -> Document:
    """A group, all that is to be told of it."""
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
        "members": sorted((member_of(member) for member in members), key=lambda member: str(member["name"])),
        "broken": sorted(str(error) for error in members.broken),
        "peek": peek,
    }


def holder_of(holder: Holder) -> Document:
    """Who holds a group."""
    same = ("group", "pid", "start_time", "command", "pod_uid", "container_id")
    return {**{name: getattr(holder, name) for name in same}, "via": holder.via.value}


def dump(path: str) -> Document:
    """The whole document."""
    try:
        root = Root(path)
        scan = root.scan()
    except ProbeError as error:
        return {"error": error_of(error)}
    with root:
        numbers = sorted({device.group for device in scan if device.group is not None})
        holders = root.holders(numbers)
        looked = holders.looked
        return {
            "group_nodes": root.has_group_nodes(),
            "devices": sorted((device_of(device) for device in scan), key=lambda device: str(device["id"])),
            "broken": sorted(
                (error_of(error) for error in scan.broken), key=lambda error: str(error["text"])
            ),
            "groups": [group_of(root, number) for number in numbers],
            "holders": sorted(
                (holder_of(holder) for holder in holders), key=lambda each: (each["group"], each["pid"])
            ),
            "looked": {
                "processes": looked.processes,
                "unreadable": looked.unreadable,
                "unattributed": looked.unattributed,
            },
        }


if __name__ == "__main__":
    print(json.dumps(dump(sys.argv[1])))
