"""Implements `async for event in watch` and the waits of a watch in asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from vfio_probe._enums import State

if TYPE_CHECKING:
    from vfio_probe._core import Waiter, Watch
    from vfio_probe._events import Event


class Events:
    """An async iterator of the events of a watch. It ends when the watch is closed."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        try:
            event = await next_event(self._watch, None)
        except ValueError:
            if self._watch.closed:
                raise StopAsyncIteration from None
            raise
        assert event is not None
        return event


async def next_event(watch: Watch, timeout: float | None = None) -> Event | None:
    """Waits for the next event. Returns None after the timeout."""
    waiter = watch._waiter(timeout)
    while True:
        event = waiter.next_event()
        if event is not None or not await _readable(waiter):
            return event


async def wait_for(watch: Watch, predicate: Callable[[Watch], object], timeout: float | None = None) -> bool:
    """Waits until the predicate is true. Returns False after the timeout."""
    if not callable(predicate):
        raise TypeError("predicate must be callable")
    waiter = watch._waiter(timeout)
    while True:
        if waiter.step() and predicate(watch):
            return True
        if not await _readable(waiter):
            return False


async def wait_until_free(watch: Watch, group: int, timeout: float | None = None) -> bool:
    """Waits until a group is free. Returns False after the timeout."""
    return await _wait_until(watch, group, State.FREE, timeout)


async def wait_until_held(watch: Watch, group: int, timeout: float | None = None) -> bool:
    """Waits until a group is held. Returns False after the timeout."""
    return await _wait_until(watch, group, State.HELD, timeout)


async def _wait_until(watch: Watch, group: int, state: State, timeout: float | None) -> bool:
    # Refuses an invalid group at once.
    watch.group(group)

    def reached(watch: Watch) -> bool:
        watched = watch.group(group)
        return watched is not None and watched.occupancy.state is state

    return await wait_for(watch, reached, timeout)


async def _readable(waiter: Waiter) -> bool:
    """Waits until there may be an event. Returns False if the time is up."""
    left = waiter.left()
    if left == 0:
        return False
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    descriptor = waiter.descriptor()
    loop.add_reader(descriptor, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), left)
    except asyncio.TimeoutError:
        # The caller checks again before it gives up.
        pass
    finally:
        loop.remove_reader(descriptor)
    return True
