"""Prints the devices bound to VFIO drivers, the states of their groups, and the holders."""

import sys

from vfio_probe import Root

with Root(sys.argv[1] if len(sys.argv) > 1 else "/") as root:
    snapshot = root.snapshot()
    for device in snapshot:
        group = None if device.group is None else snapshot.group(device.group)
        if group is not None:
            holders = (f"by pid {holder.pid} ({holder.command})" for holder in group.holders)
            print(device.id, group.occupancy.state, *holders)
