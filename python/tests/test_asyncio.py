"""`async for event in watch`."""

import asyncio
import contextlib

import pytest
from sim_node import GPUS, Node, descriptors

from vfio_probe import EventKind, Root, Watch

BOUND = len(GPUS)


async def following(watch: Watch, kinds: list[tuple[EventKind, int | None]], until: int) -> None:
    """Notes what is held and freed, until there are so many."""
    async for event in watch:
        if event.kind in (EventKind.HELD, EventKind.FREED):
            kinds.append((event.kind, event.group))
            if len(kinds) == until:
                break


def test_events_come_while_the_loop_does_other_things(node: Node, root: Root) -> None:
    async def main() -> None:
        with root.watch(interval=0.02) as watch:
            kinds: list[tuple[EventKind, int | None]] = []
            task = asyncio.create_task(following(watch, kinds, 2))
            while not any(watch.devices()):
                await asyncio.sleep(0)
            pid = node.start_vm(51)
            while not kinds:
                await asyncio.sleep(0)
            holders = watch.holders(51)
            assert holders is not None
            assert [holder.pid for holder in holders] == [pid]
            node.kill_vm(pid)
            await asyncio.wait_for(task, 30)
            assert kinds == [(EventKind.HELD, 51), (EventKind.FREED, 51)]

    asyncio.run(main())


def test_two_tasks_may_share_a_watch(node: Node, root: Root) -> None:
    async def main() -> None:
        with root.watch(interval=0.02) as watch:
            kinds: list[tuple[EventKind, int | None]] = []
            tasks = [asyncio.create_task(following(watch, kinds, 8)) for _ in range(2)]
            while not any(watch.devices()):
                await asyncio.sleep(0)
            for group in GPUS:
                node.start_vm(group)
            _, pending = await asyncio.wait(tasks, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert sorted(group or 0 for _, group in kinds) == sorted(GPUS)
            for task in pending:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    asyncio.run(main())


def test_closing_ends_the_loop(root: Root) -> None:
    async def main() -> int:
        watch = root.watch(interval=86_400)
        count = 0

        async def follow() -> None:
            nonlocal count
            async for _ in watch:
                count += 1

        task = asyncio.create_task(follow())
        while count < BOUND:
            await asyncio.sleep(0)
        # The task waits now, and nothing will happen.
        await asyncio.sleep(0.05)
        assert not task.done()
        watch.close()
        await asyncio.wait_for(task, 30)
        return count

    assert asyncio.run(main()) >= BOUND


def test_cancelling_leaves_nothing_behind(root: Root) -> None:
    async def main(watch: Watch) -> None:
        kinds: list[tuple[EventKind, int | None]] = []
        while watch.next_event(0) is not None:
            pass
        before = descriptors()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(following(watch, kinds, 1), 0.1)
        assert descriptors() == before
        assert watch.next_event(0) is None

    with root.watch(interval=0.02) as watch:
        asyncio.run(main(watch))


def test_a_closed_watch_cannot_be_followed(root: Root) -> None:
    watch = root.watch()
    watch.close()
    with pytest.raises(ValueError, match="^the watch is closed$"):
        asyncio.run(following(watch, [], 1))
