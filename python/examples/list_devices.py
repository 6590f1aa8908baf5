"""Prints the devices bound to VFIO drivers, whether their groups look held, and the holders."""

import sys

from vfio_probe import Peek, Root

with Root(sys.argv[1] if len(sys.argv) > 1 else "/") as root:
    for device in root.scan():
        if device.group is not None:
            peek = root.peek(device.group)
            holders = root.holders([device.group]) if peek is Peek.LOOKS_HELD else ()
            print(device.id, peek, *(f"by pid {holder.pid} ({holder.command})" for holder in holders))
