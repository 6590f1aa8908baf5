"""Prints the events of all groups in an asyncio program. Ends when a held group becomes free."""

import asyncio
import sys

from vfio_probe import EventKind, GroupEvent, Root


async def main(path: str) -> None:
    """Prints the holders of each group that becomes held, until a group becomes free."""
    with Root(path) as root, root.watch() as watch:
        held = set()
        async for event in watch:
            match event:
                case GroupEvent(EventKind.HELD, group):
                    held.add(group)
                    holders = watch.holders(group) or ()
                    print("group", group, "held by", *(holder.pid for holder in holders), flush=True)
                # At the start a watch reports each free group as freed.
                case GroupEvent(EventKind.FREED, group) if group in held:
                    print("group", group, "free again", flush=True)
                    break


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "/"))
