"""Tests that every call with a system call releases the GIL, and that Ctrl-C ends every wait."""

import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sim_node import GPUS, Node, eventually

from vfio_probe import EventKind, GroupEvent, Root, Watch, names

Call = Callable[[Root, Watch], object]
CALLS: dict[str, Call] = {
    "Root": lambda root, _: Root(root.path).close(),
    "scan": lambda root, _: root.scan(),
    "device": lambda root, _: root.device("0000:1b:00.0"),
    "group": lambda root, _: root.group(51),
    "members": lambda root, _: root.members(51),
    "peek": lambda root, _: root.peek(51),
    "probe": lambda root, _: root.probe(51),
    "probe with a timeout": lambda root, _: root.probe(51, 30),
    "holders": lambda root, _: root.holders([51]),
    "names": lambda root, _: names([(1, 2)], Path(root.path) / "sys/bus/pci/devices/0000:1b:00.0/uevent"),
    "watch": lambda root, _: root.watch().close(),
    "device_nodes": lambda root, _: root.device_nodes(51),
    "hardware": lambda root, _: root.hardware("0000:1b:00.0"),
    "snapshot": lambda root, _: root.snapshot(),
    "ready": lambda _, watch: watch.ready,
    "wait_for": lambda _, watch: watch.wait_for(lambda _: False, 0.001),
    "wait_until_held": lambda _, watch: watch.wait_until_held(99, 0.001),
    "next_event": lambda _, watch: watch.next_event(0),
    "next_event with a timeout": lambda _, watch: watch.next_event(0.001),
    "devices": lambda _, watch: watch.devices(),
    "groups": lambda _, watch: watch.groups(),
    "holders of a watch": lambda _, watch: watch.holders(51),
}


@pytest.fixture
def greedy() -> Iterator[None]:
    """Lets a thread keep the GIL until it releases it explicitly."""
    assert not sysconfig.get_config_var("Py_GIL_DISABLED")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    yield
    sys.setswitchinterval(before)


def another_runs_during(call: Callable[[], object], calls: int) -> bool:
    """Returns True if another thread that is ready to run runs during one of the calls."""
    began, turn, done = threading.Event(), threading.Semaphore(0), []

    def wait() -> None:
        began.set()
        turn.acquire()
        done.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    began.wait()
    turn.release()
    for _ in range(calls):
        call()
        if done:
            break
    ran = bool(done)
    thread.join()
    return ran


@pytest.mark.usefixtures("greedy")
def test_call_that_keeps_the_gil_is_detected(root: Root) -> None:
    assert not another_runs_during(lambda: root.path, 1000)


@pytest.mark.usefixtures("greedy")
@pytest.mark.parametrize("name", CALLS)
def test_call_releases_the_gil(root: Root, name: str) -> None:
    with root.watch(interval=0.001) as watch:
        assert another_runs_during(lambda: CALLS[name](root, watch), 100_000)


@pytest.mark.usefixtures("greedy")
def test_close_of_a_watch_releases_the_gil(root: Root) -> None:
    watches = [root.watch() for _ in range(50)]
    assert another_runs_during(lambda: watches.pop().close(), len(watches))
    for watch in watches:
        watch.close()


def test_close_in_forked_child_keeps_parent_waiting(root: Root) -> None:
    with root.watch(interval=86400) as watch:
        while watch.next_event(0) is not None:
            pass
        child = os.fork()
        if child == 0:
            watch.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not watch.closed
        with selectors.DefaultSelector() as selector:
            selector.register(watch, selectors.EVENT_READ)
            # A descriptor that stays readable would cause a busy loop.
            assert not selector.select(0)
        assert watch.next_event(0) is None


def test_thread_runs_while_another_waits(node: Node, root: Root) -> None:
    with root.watch(interval=0.02) as watch:
        while watch.next_event(0) is not None:
            pass
        seen = []
        thread = threading.Thread(target=lambda: seen.append(watch.next_event()))
        thread.start()
        count = 0
        while count < 1_000_000:
            count += 1
        assert seen == []
        node.start_vm(51)
        thread.join(30)
        assert seen == [GroupEvent(EventKind.HELD, 51)]


def test_eight_threads_share_a_root(node: Node, root: Root) -> None:
    node.start_vm(51)
    expected = root.scan().devices
    failures: list[object] = []

    def work(group: int) -> None:
        try:
            for _ in range(100):
                assert root.scan().devices == expected
                assert root.device(GPUS[group]).group == group
                assert root.group(group).viable
                assert root.peek(group) == ("looks-held" if group == 51 else "looks-free")
                assert len(root.holders([51])) == 1
        except BaseException as failure:
            failures.append(failure)
            raise

    threads = [threading.Thread(target=work, args=(group,)) for group in GPUS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


WAITS = {
    "iteration": "for event in watch: print(event.kind, flush=True)",
    "next_event": "while True: print(watch.next_event().kind, flush=True)",
    "next_event with a timeout": "while True: print(watch.next_event(86400).kind, flush=True)",
    "wait_until_held": """
while (event := watch.next_event(0)) is not None: print(event.kind, flush=True)
watch.wait_until_held(99)""",
    "wait_for": """
while (event := watch.next_event(0)) is not None: print(event.kind, flush=True)
watch.wait_for(lambda watch: False)""",
    "asyncio": """
async def main():
    async for event in watch: print(event.kind, flush=True)
import asyncio; asyncio.run(main())""",
}


@pytest.mark.parametrize("wait", WAITS)
def test_sigint_ends_a_wait(node: Node, wait: str) -> None:
    # The interval is long, so that the timer does not end the wait.
    program = (
        f"import vfio_probe; watch = vfio_probe.Root({str(node.root)!r}).watch(interval=86400)\n{WAITS[wait]}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in GPUS] == ["bound\n"] * len(GPUS)
        eventually(lambda: waits(process.pid))
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")


# The numbers of poll, ppoll and epoll_wait, on x86-64 and in the kernel's generic table of system calls.
POLLS = {"x86_64": {7, 271, 232, 281}}.get(os.uname().machine, {73, 22})


def waits(pid: int) -> bool:
    """Returns True if the main thread of a process is in a system call that waits for a descriptor."""
    number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return number.isdecimal() and int(number) in POLLS
