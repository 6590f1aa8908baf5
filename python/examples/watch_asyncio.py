"""Prints the events of all groups in an asyncio program. Ends when a held group becomes free."""

import asyncio
import sys

from vfio_probe import EventKind, Root


async def main(path: str) -> None:
    """Prints the holders of each group that becomes held, until a group becomes free."""
    with Root(path) as root, root.watch() as watch:
        async for event in watch:
            if event.kind is EventKind.HELD and event.group is not None:
                holders = watch.holders(event.group) or ()
                print("group", event.group, "held by", *(holder.pid for holder in holders), flush=True)
            elif event.kind is EventKind.FREED:
                print("group", event.group, "free again", flush=True)
                break


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "/"))
