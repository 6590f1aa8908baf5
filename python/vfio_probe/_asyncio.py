"""Implements `async for event in watch`."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfio_probe._core import Event, Watch


class Events:
    """An async iterator of the events of a watch. It ends when the watch is closed."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        while True:
            try:
                waiter = self._watch._waiter()
                event = self._watch.next_event(0)
            except ValueError:
                raise StopAsyncIteration from None
            if event is not None:
                return event
            # A loop allows one reader per descriptor, but several tasks may wait for the same watch.
            descriptor = os.dup(waiter.fileno())
            try:
                await _readable(descriptor)
            finally:
                os.close(descriptor)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
