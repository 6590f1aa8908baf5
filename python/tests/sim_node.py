"""The simulated node: real files, ptys that answer the kernel's own EBUSY, machines that hold them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("VFIO_SIM_NODE", str(REPOSITORY / "target/debug/vfio-sim-node"))

GPUS = {
    51 + index: f"0000:{bus}:00.0"
    for index, bus in enumerate(["1b", "3d", "4e", "5f", "9b", "bd", "ce", "df"])
}
"""Groups and addresses of the eight-GPU node."""


class Node:
    """A node that obeys orders, until the end of the `with`."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [PROGRAM, "serve", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.root = Path(self._reply()["root"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the node has gone"
        reply: dict[str, Any] = json.loads(line)
        assert "error" not in reply, reply
        return reply

    def order(self, name: str, **of: Any) -> dict[str, Any]:
        """Any order of vfio-sim-node."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({name: of}) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def start_vm(self, *groups: int, **of: Any) -> int:
        """Starts a machine that has GPUs of these groups; its pid."""
        pid = self.order("start_vm", addresses=[GPUS[group] for group in groups], **of)["pid"]
        assert isinstance(pid, int)
        return pid

    def kill_vm(self, pid: int) -> None:
        """Ends a machine; when it returns the groups are free."""
        self.order("kill_vm", pid=pid)

    def opens(self, group: int) -> int:
        """How often others than machines have opened the group."""
        opens = self.order("opens", group=group)["opens"]
        assert isinstance(opens, int)
        return opens

    def add_unreadable_process(self, pid: int) -> None:
        """A process whose descriptors cannot be listed: for root too, since its `fd` is no folder."""
        process = self.root / f"proc/{pid}"
        process.mkdir()
        (process / "fd").touch()

    @contextlib.contextmanager
    def denied(self, group: int) -> Iterator[None]:
        """Meanwhile this process may not open the group, as an ordinary user may not."""
        terminal = (self.root / f"dev/vfio/{group}").resolve()
        mode = terminal.stat().st_mode
        terminal.chmod(0)
        self.root.chmod(0o755)
        user = os.geteuid()
        if user == 0:
            # A mode is nothing to root.
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)
            terminal.chmod(mode)


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for what other threads or processes are about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)
