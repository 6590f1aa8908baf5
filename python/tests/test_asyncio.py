"""Tests `async for event in watch`."""

import asyncio
import contextlib

import pytest
from sim_node import GPUS, Node, descriptors

from vfio_probe import Event, EventKind, GroupEvent, ProbeError, Root, Watch, WatchEvent

BOUND = len(GPUS)


async def collect(watch: Watch, kinds: list[tuple[EventKind, int | None]], until: int) -> None:
    """Collects held and freed events until there are `until` of them."""
    async for event in watch:
        if isinstance(event, GroupEvent) and event.kind is not EventKind.CHANGED:
            kinds.append((event.kind, event.group))
            if len(kinds) == until:
                break


async def first_pass(watch: Watch) -> None:
    """Takes the events of the first pass."""
    while await watch.next_event_async() != WatchEvent(EventKind.READY):
        pass


def test_events_arrive_while_the_loop_runs_other_tasks(node: Node, root: Root) -> None:
    async def main() -> None:
        with root.watch(interval=0.02) as watch:
            kinds: list[tuple[EventKind, int | None]] = []
            await first_pass(watch)
            task = asyncio.create_task(collect(watch, kinds, 2))
            await asyncio.sleep(0)
            pid = node.start_vm(51)
            while not kinds:
                await asyncio.sleep(0)
            await watch.wait_for_async(lambda watch: watch.holders(51), 30)
            holders = watch.holders(51)
            assert holders is not None
            assert [holder.pid for holder in holders] == [pid]
            node.kill_vm(pid)
            await asyncio.wait_for(task, 30)
            assert kinds == [(EventKind.HELD, 51), (EventKind.FREED, 51)]

    asyncio.run(main())


def test_two_tasks_share_a_watch(node: Node, root: Root) -> None:
    async def main() -> None:
        with root.watch(interval=0.02) as watch:
            kinds: list[tuple[EventKind, int | None]] = []
            await first_pass(watch)
            tasks = [asyncio.create_task(collect(watch, kinds, 8)) for _ in range(2)]
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


def test_close_ends_async_iteration(root: Root) -> None:
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
        # The loop ran this again, so the task waits.
        assert not task.done()
        watch.close()
        await asyncio.wait_for(task, 30)
        return count

    assert asyncio.run(main()) >= BOUND


def test_cancelled_task_leaks_no_descriptor(root: Root) -> None:
    async def main(watch: Watch) -> None:
        kinds: list[tuple[EventKind, int | None]] = []
        while watch.next_event(0) is not None:
            pass
        # The watch keeps the descriptors of one wait for the next.
        assert await watch.next_event_async(0.01) is None
        before = descriptors()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(collect(watch, kinds, 1), 0.1)
        assert descriptors() == before
        assert watch.next_event(0) is None

    with root.watch(interval=0.02) as watch:
        asyncio.run(main(watch))


def test_async_iteration_of_a_closed_watch_is_refused(root: Root) -> None:
    watch = root.watch()
    watch.close()
    with pytest.raises(ValueError, match="^the watch is closed$"):
        asyncio.run(collect(watch, [], 1))


def test_waits_in_asyncio(node: Node, root: Root) -> None:
    async def main() -> None:
        with root.watch(interval=0.02) as watch:
            assert await watch.wait_until_free_async(51, 30)
            assert watch.ready
            assert not await watch.wait_until_held_async(51, 0.05)
            waiting = asyncio.create_task(watch.wait_until_held_async(51, 30))
            await asyncio.sleep(0)
            pid = node.start_vm(51)
            assert await waiting
            assert await watch.wait_for_async(lambda watch: watch.holders(51), 30)
            node.kill_vm(pid)
            assert await watch.wait_until_free_async(51)
            # The events are still there.
            events: list[Event] = list(iter(lambda: watch.next_event(0), None))
            kinds = [event.kind for event in events]
            assert kinds.count(EventKind.READY) == 1
            assert kinds[-2:] == [EventKind.HELD, EventKind.FREED]
            assert await watch.next_event_async(0.05) is None

    asyncio.run(main())


def test_asyncio_sees_that_there_is_no_device(empty: Node) -> None:
    async def main() -> None:
        with Root(empty.root) as root, root.watch() as watch:
            assert await anext(aiter(watch)) == WatchEvent(EventKind.READY)

    asyncio.run(main())


def test_failed_pass_is_raised_in_asyncio(node: Node, root: Root) -> None:
    async def main() -> None:
        node.do("delete", path="sys/class/vfio-dev")
        node.do("delete", path="sys/bus/pci/drivers")
        with root.watch(interval=0.02) as watch:
            for _ in range(2):
                with pytest.raises(ProbeError, match="^sys/bus/pci/drivers: "):
                    await anext(aiter(watch))
            with pytest.raises(ProbeError, match="^sys/bus/pci/drivers: "):
                await watch.wait_until_free_async(51)

    asyncio.run(main())


def test_invalid_waits_in_asyncio_are_refused(root: Root) -> None:
    async def main() -> None:
        with root.watch() as watch:
            with pytest.raises(OverflowError, match="^group must be"):
                await watch.wait_until_free_async(-1)
            with pytest.raises(ValueError, match="^timeout must be"):
                await watch.next_event_async(float("nan"))

    asyncio.run(main())
