"""Drives the simulated node: real files, ptys that the kernel refuses with EBUSY, and VMs that hold them."""

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
    """A simulated node. It ends with the `with` block."""

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
        assert line, "vfio-sim-node ended"
        reply: dict[str, Any] = json.loads(line)
        assert "error" not in reply, reply
        return reply

    def do(self, name: str, **of: Any) -> dict[str, Any]:
        """Sends a command to vfio-sim-node and returns the reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({name: of}) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def start_vm(self, *groups: int, **of: Any) -> int:
        """Starts a VM with the GPUs of these groups; returns its pid."""
        pid = self.do("start_vm", addresses=[GPUS[group] for group in groups], **of)["pid"]
        assert isinstance(pid, int)
        return pid

    def kill_vm(self, pid: int) -> None:
        """Ends a VM and waits until its groups are free."""
        self.do("kill_vm", pid=pid)

    def opens(self, group: int) -> int:
        """Returns how often processes other than VMs opened the group."""
        opens = self.do("opens", group=group)["opens"]
        assert isinstance(opens, int)
        return opens

    def add_unreadable_process(self, pid: int) -> None:
        """Adds a process with descriptors that cannot be listed, not even by root: its `fd` is a file."""
        process = self.root / f"proc/{pid}"
        process.mkdir()
        (process / "fd").touch()

    @contextlib.contextmanager
    def denied(self, group: int) -> Iterator[None]:
        """Denies this process the open of the group, like an ordinary user."""
        terminal = (self.root / f"dev/vfio/{group}").resolve()
        mode = terminal.stat().st_mode
        terminal.chmod(0)
        self.root.chmod(0o755)
        user = os.geteuid()
        if user == 0:
            # File modes do not restrict root.
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)
            terminal.chmod(mode)


def descriptors() -> int:
    """Returns the number of open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until the condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not become true within {seconds} s"
        time.sleep(0.005)
