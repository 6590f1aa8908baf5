import os
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, final

from vfio_probe._asyncio import Events
from vfio_probe._enums import Peek
from vfio_probe._errors import ProbeError
from vfio_probe._events import Event
from vfio_probe._values import (
    Device,
    DeviceNodes,
    Group,
    Hardware,
    Holders,
    Members,
    Occupancy,
    Scan,
    Snapshot,
    WatchedGroup,
)

__all__ = ["Root", "Waiter", "Watch", "__version__", "names"]

__version__: str

@final
class Root:
    """A directory that contains sys, dev and proc: `/`, or a host's root file system mounted into a
    container.

    A context manager. Any number of threads may use a root at the same time. Raises MissingError or another
    ProbeError if the directory cannot be opened.
    """
    def __new__(cls, path: str | os.PathLike[str] = "/") -> Root: ...
    @property
    def path(self) -> str:
        """The path of the root, as passed to Root()."""
    @property
    def closed(self) -> bool:
        """True if the root is closed."""
    def scan(self) -> Scan:
        """Lists the devices bound to a VFIO driver, ordered by id. Opens no device.

        A device that cannot be read is in the errors of the result. Raises ProbeError if the bound devices
        cannot be listed.
        """
    def device(self, id: str) -> Device:
        """Reads one device by PCI address or mdev UUID, bound to a VFIO driver or not. Its cdev is None:
        only scan() sets it.

        Raises MissingError if there is no such device.
        """
    def group(self, group: int) -> Group:
        """Reads a group: the count of its members and whether VFIO can use it. Opens no device.

        Raises MissingError if there is no such group.
        """
    def members(self, group: int) -> Members:
        """Lists the members of a group, ordered by name. Opens no device.

        A member that cannot be read is in the errors of the result. Raises MissingError if there is no such
        group.
        """
    def has_group_nodes(self) -> bool:
        """Returns True if the kernel has device nodes for groups. Opens no device.

        Without CONFIG_VFIO_GROUP the kernel has none, and every probe returns absent; use peek() instead.
        """
    def peek(self, group: int) -> Peek:
        """Reads the sysfs attribute enable of the functions of a group. Opens no device and disturbs no
        other process.

        Raises MissingError if there is no such group.
        """
    def probe(self, group: int, timeout: float | None = None) -> Occupancy:
        """Opens the device node of a group and closes it at once. During a probe of a free group, the open
        of another process fails with EBUSY.

        Without a timeout the call blocks for seconds while the kernel resets a device of the group. With a
        timeout, in seconds, a helper thread opens the node. Without a result by then the state is unknown,
        with the reason timed-out.
        """
    def holders(self, groups: Iterable[int]) -> Holders:
        """Finds the processes that hold any of the groups. Opens no device.

        Reads /proc of all processes, which takes milliseconds on a busy host: pass all groups in one call.
        Processes of other users need CAP_SYS_PTRACE. Raises ProbeError if /proc cannot be listed.
        """
    def device_nodes(self, group: int) -> DeviceNodes:
        """Returns the device nodes that a VM needs to use the devices of a group. Opens none of them.

        The source is sysfs. The kernel reuses numbers of nodes, so do not keep the result. Raises
        MissingError if there is no such group.
        """
    def hardware(self, device: str) -> Hardware:
        """Reads whether the hardware of a PCI function responds, and the count of its fatal PCIe errors.

        Wakes no function from a low-power state. Raises MissingError if there is no such function.
        """
    def snapshot(self, probe_timeout: float | None = None) -> Snapshot:
        """Reads all bound devices with their groups and the holders of these.

        Opens no device unless probe_timeout is given: a process in /proc that has a group open shows that
        it is held (evidence holder), and otherwise a peek decides (evidence enable). With a probe_timeout,
        in seconds, each group is probed after the search for holders. Reads /proc of all processes, which
        takes milliseconds on a busy host. Raises ProbeError if the bound devices cannot be listed.
        """
    def watch(
        self,
        interval: float = 1.0,
        probe: bool = False,
        uevents: bool = True,
        holders: bool = True,
    ) -> Watch:
        """Returns a watch of all devices of the root.

        interval is the time between two peeks, 0.001 to 86400 seconds. Kernel events, changes of device
        nodes and exits of holders are reported earlier. The watch opens groups only with probe=True.
        uevents=False disables kernel uevents, holders=False disables the search for holders. The first
        events report the current state.
        """
    def close(self) -> None:
        """Closes the root. Its watches stay open. Closing again has no effect."""
    def __enter__(self) -> Root: ...
    def __exit__(self, *_exception: object) -> None: ...

@final
class Watch:
    """A watch of all devices of a root: an iterator of events and a context manager.

    Any number of threads may use a watch at the same time. Each event goes to one caller.
    """
    def next_event(self, timeout: float | None = None) -> Event | None:
        """Returns the next event, or None if there is none within timeout seconds. 0 does not wait; None
        waits without a limit. Raises ProbeError once for each pass that cannot list the bound devices; the
        watch goes on."""
    def __iter__(self) -> Watch: ...
    def __next__(self) -> Event: ...
    def wait_for(self, predicate: Callable[[Watch], object], timeout: float | None = None) -> bool:
        """Waits until predicate(watch) is true. Returns False if there is none within timeout seconds; None
        waits without a limit.

        The predicate is called first when the watch is ready, and then after each change. Events of that
        time stay queued for next_event(); more than 1024 become one rescan. Raises ProbeError if a pass
        cannot list the bound devices; the wait can be repeated. Ctrl-C ends the wait.
        """
    def wait_until_free(self, group: int, timeout: float | None = None) -> bool:
        """Waits until a group is free. Returns False if it is not within timeout seconds; None waits
        without a limit.

        A group that the watch does not know, or whose state is unknown, is not free. Otherwise as
        wait_for().
        """
    def wait_until_held(self, group: int, timeout: float | None = None) -> bool:
        """Waits until a group is held. Returns False if it is not within timeout seconds; None waits
        without a limit.

        Otherwise as wait_for().
        """
    @property
    def ready(self) -> bool:
        """True after the first complete pass: then a watch without devices means that there are none."""
    def __aiter__(self) -> Events: ...
    def next_event_async(self, timeout: float | None = None) -> Coroutine[Any, Any, Event | None]:
        """Waits for the next event in asyncio. As next_event()."""
    def wait_for_async(
        self, predicate: Callable[[Watch], object], timeout: float | None = None
    ) -> Coroutine[Any, Any, bool]:
        """Waits in asyncio until predicate(watch) is true. As wait_for()."""
    def wait_until_free_async(self, group: int, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        """Waits in asyncio until a group is free. As wait_until_free()."""
    def wait_until_held_async(self, group: int, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        """Waits in asyncio until a group is held. As wait_until_held()."""
    def fileno(self) -> int:
        """Returns a descriptor that is readable when there may be an event. Then call next_event(0) until
        it returns None. Do not read or close the descriptor. It becomes readable for what the waits of
        other threads have read first, too; calls with a timeout of 0 end that, so one thread polls it."""
    @property
    def closed(self) -> bool:
        """True if the watch is closed."""
    def devices(self) -> tuple[Device, ...]:
        """Returns the bound devices, ordered by id, in the state of the latest event. A device that the
        kernel unbinds has the driver None. The SR-IOV fields are not set."""
    def groups(self) -> tuple[WatchedGroup, ...]:
        """Returns the groups that have a bound device, ordered by number, in the state of the latest
        event."""
    def group(self, group: int) -> WatchedGroup | None:
        """Returns one group in the state of the latest event, or None if the watch does not know it."""
    def holders(self, group: int) -> Holders | None:
        """Returns the known holders of a group, or None if the group is not held or was not searched for
        holders."""
    def set_assigned_groups(self, groups: Iterable[int]) -> None:
        """Sets the groups that are assigned to VMs. The watch never opens them. Replaces the previous
        set."""
    def errors(self) -> tuple[ProbeError, ...]:
        """Returns the errors of the devices that could not be read in the latest full pass."""
    def failure(self) -> ProbeError | None:
        """Returns the error of the latest pass if the bound devices could not be listed, else None. The
        watch keeps its state."""
    def close(self) -> None:
        """Closes the watch and ends all waits for it. Closing again has no effect."""
    def __enter__(self) -> Watch: ...
    def __exit__(self, *_exception: object) -> None: ...
    def _waiter(self, timeout: float | None) -> Waiter:
        """Returns an object that keeps the descriptor open during a wait."""

@final
class Waiter:
    """A wait for a watch. It keeps the descriptor open, even if the watch is closed during the wait."""
    def left(self) -> float | None:
        """Returns the seconds until the end of the timeout, 0 after it. None without a timeout."""
    def descriptor(self) -> int:
        """Returns the descriptor to wait for after a step. No other waiter has the same one. Raises OSError
        if the process had no descriptor left."""
    def step(self) -> bool:
        """Takes in what has changed. Returns whether a predicate is due. Does not wait."""
    def next_event(self) -> Event | None:
        """Returns the next event, or None for now. Does not wait."""

def names(
    ids: Iterable[tuple[int, int]], path: str | os.PathLike[str] | None = None
) -> dict[tuple[int, int], str]:
    """Looks up names of PCI device models.

    Returns {(vendor, device): name}. A pair without a name is left out. Without `path` the names come from
    the table in the module: the pci.ids of 2025-07-11. With `path` they come from that pci.ids file only.
    Raises MissingError, DeniedError or another ProbeError if the file cannot be read, and MalformedError if
    it is not a regular file.
    """
