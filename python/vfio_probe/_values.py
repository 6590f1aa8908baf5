"""The values: frozen dataclasses. The extension module constructs them; tests of other programs can too."""

from __future__ import annotations

import datetime
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from vfio_probe._enums import (
    Evidence,
    InPod,
    Kind,
    Peek,
    PidNamespace,
    Presence,
    Sriov,
    State,
    UnknownReason,
    Via,
)
from vfio_probe._errors import DeniedError, HeldError, MissingError, ProbeError, ProbeTimeoutError
from vfio_probe._value import Value


@dataclass(frozen=True, slots=True)
class Device(Value):
    """A device as sysfs describes it.

    Attributes:
        id: The PCI address (0000:3b:00.0) or the mdev UUID.
        vendor: The PCI vendor id. For a mediated device that of its parent, or 0.
        device: The PCI device id. For a mediated device that of its parent, or 0.
        subsystem_vendor: The PCI subsystem vendor id, 0 for none.
        subsystem_device: The PCI subsystem device id, 0 for none.
        class_code: The PCI class, subclass and programming interface in 24 bits: 0x030200 is a 3D
            controller.
        driver: The name of the driver. None while the kernel unbinds the device.
        group: The number of the IOMMU group. None without an IOMMU.
        numa_node: The number of the NUMA node. None if the kernel does not know it.
        sriov: The role in SR-IOV.
        vfs: The number of enabled virtual functions of a physical function, else 0.
        cdev: N of the device node /dev/vfio/devices/vfioN. None on kernels before 6.1, and from
            Root.device().
        kind: The kind of device.
        vgpu_type: The mdev type, or the number of the vGPU type of a vendor's virtual function. None for
            all others.
        parent: The address of the parent of a mediated device or virtual function, else None.
    """

    id: str
    vendor: int = 0
    device: int = 0
    subsystem_vendor: int = 0
    subsystem_device: int = 0
    class_code: int = 0
    driver: str | None = None
    group: int | None = None
    numa_node: int | None = None
    sriov: Sriov = Sriov.NONE
    vfs: int = 0
    cdev: int | None = None
    kind: Kind = Kind.PCI
    vgpu_type: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Group(Value):
    """An IOMMU group as sysfs describes it.

    Attributes:
        group: The number of the IOMMU group.
        members: The count of members.
        unreadable: The count of members that could not be read.
        viable: True if VFIO can use the group: no member has a driver that is not a VFIO driver.
        offender: The name of the first member that makes the group not viable, or None.
        offender_driver: The driver of the offender, or None.
        offenders: The count of members that make the group not viable.
    """

    group: int
    members: int = 0
    unreadable: int = 0
    viable: bool = True
    offender: str | None = None
    offender_driver: str | None = None
    offenders: int = 0


@dataclass(frozen=True, slots=True)
class Member(Value):
    """A member of an IOMMU group: a PCI function, a mediated device, or a device of another bus.

    Attributes:
        name: The name in the group's directory in sysfs: for a PCI function its address.
        driver: The name of the driver, or None.
        vfio: True if the driver is a VFIO driver.
        offends: True if the member makes its group not viable.
    """

    name: str
    driver: str | None = None
    vfio: bool = False
    offends: bool = False


@dataclass(frozen=True, slots=True)
class Holder(Value):
    """A process that has a group or a device of it open.

    Attributes:
        group: The number of the IOMMU group.
        pid: The process id in the pid namespace of the root's /proc.
        start_time: The start of the process in clock ticks (1/100 s) after boot. With the pid it identifies
            the process.
        command: The name of the process from /proc/PID/comm, at most 15 bytes.
        via: The kind of descriptor by which the process holds the group.
        uid: The effective user id. None if it could not be read.
        started: The start in UTC, a whole second. It follows corrections of the clock; start_time does not.
            None if unknown.
        in_pod: Whether the process is in a pod.
        pod_uid: The UID of the pod. None unless in_pod is yes.
        container_id: The id of the container from the cgroup. None if the cgroup names none.
    """

    group: int
    pid: int
    start_time: int = 0
    command: str = ""
    via: Via = Via.GROUP
    uid: int | None = None
    started: datetime.datetime | None = None
    in_pod: InPod = InPod.UNKNOWN
    pod_uid: str | None = None
    container_id: str | None = None


@dataclass(frozen=True, slots=True)
class ScanCoverage(Value):
    """The coverage of a search for holders. The list may be incomplete unless complete is True.

    Attributes:
        processes: The count of processes in /proc.
        unreadable: The count of processes that could not be read.
        unattributed: The count of open VFIO device descriptors that no device could be found for.
        unsearched: The count of processes that were not searched within the time limit.
        pid_namespace: The pid namespace that the search saw.
    """

    processes: int = 0
    unreadable: int = 0
    unattributed: int = 0
    unsearched: int = 0
    pid_namespace: PidNamespace = PidNamespace.UNKNOWN

    _derived: ClassVar[tuple[str, ...]] = ("complete",)

    @property
    def complete(self) -> bool:
        """True if the search saw every process of the host and every descriptor."""
        seen = not (self.unreadable or self.unattributed or self.unsearched)
        return seen and self.pid_namespace is PidNamespace.HOST


@dataclass(frozen=True, slots=True)
class Occupancy(Value):
    """The occupancy of a group, such as the result of a probe.

    Attributes:
        group: The number of the IOMMU group.
        state: The state of the group.
        unknown_reason: The reason for the state unknown, else None.
        errno: The errno if unknown_reason is errno, else 0.
    """

    group: int
    state: State
    unknown_reason: UnknownReason | None = None
    errno: int = 0

    def raise_unless_free(self) -> None:
        """Returns None if the group is free.

        Raises HeldError if it is held, MissingError if it is absent, and DeniedError, ProbeTimeoutError or
        another ProbeError if its state is unknown.
        """
        if self.state is not State.FREE:
            kind, number, text = self._failure()
            text = f"group {self.group}: {text}"
            raise kind(number, os.strerror(number), text=text, group=self.group)

    def _failure(self) -> tuple[type[ProbeError], int, str]:
        if self.state is State.HELD:
            return HeldError, errno.EBUSY, "held"
        if self.state is State.ABSENT:
            return MissingError, errno.ENODEV, "absent: no device node, or no device behind it"
        if self.unknown_reason is UnknownReason.DENIED:
            return DeniedError, errno.EACCES, "unknown: the open was denied"
        if self.unknown_reason is UnknownReason.TIMED_OUT:
            return ProbeTimeoutError, errno.ETIMEDOUT, "unknown: the probe timed out"
        if self.unknown_reason is UnknownReason.ERRNO:
            return ProbeError, self.errno, f"unknown: {os.strerror(self.errno)}"
        return ProbeError, errno.EAGAIN, "unknown: the watch has not probed it yet"


@dataclass(frozen=True, slots=True)
class DeviceNodes(Value):
    """The device nodes of a group, as paths relative to /dev: what a VM needs to use the group's devices.

    Attributes:
        group: The number of the IOMMU group.
        container: vfio/vfio. None if the kernel has no such node.
        group_node: vfio/N, or vfio/noiommu-N without an IOMMU. None without CONFIG_VFIO_GROUP.
        iommufd: iommu. None if the kernel has no such node (CONFIG_IOMMUFD).
        devices: The members bound to a VFIO driver, ordered by id, each with its node vfio/devices/vfioN or
            None.
    """

    group: int
    container: str | None = None
    group_node: str | None = None
    iommufd: str | None = None
    devices: tuple[tuple[str, str | None], ...] = ()

    def group_mode(self) -> tuple[str, ...] | None:
        """Returns the nodes that a VM opens in group mode. None if one of them is missing."""
        if self.container is None or self.group_node is None:
            return None
        return (self.container, self.group_node)

    def iommufd_mode(self) -> tuple[str, ...] | None:
        """Returns the nodes that a VM with all devices of the group opens in iommufd mode.

        None if one of them is missing, or if no device is bound.
        """
        nodes = tuple(node for _, node in self.devices if node is not None)
        if self.iommufd is None or not nodes or len(nodes) != len(self.devices):
            return None
        return (self.iommufd, *nodes)


@dataclass(frozen=True, slots=True)
class Hardware(Value):
    """The state of a PCI function's hardware.

    Attributes:
        device: The PCI address of the function.
        presence: Whether the function responds.
        fatal_errors: The count of fatal PCIe errors since the function was added. None if the kernel does
            not count them.
    """

    device: str
    presence: Presence
    fatal_errors: int | None = None


@dataclass(frozen=True, slots=True)
class Scan(Value):
    """The devices bound to a VFIO driver. Iteration yields the devices.

    Attributes:
        devices: The devices, ordered by id.
        errors: The errors of the devices that could not be read.
    """

    devices: tuple[Device, ...] = ()
    errors: tuple[ProbeError, ...] = ()

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices)

    def __len__(self) -> int:
        return len(self.devices)


@dataclass(frozen=True, slots=True)
class Members(Value):
    """The members of a group. Iteration yields the members.

    Attributes:
        members: The members, ordered by name.
        errors: The errors of the members that could not be read.
    """

    members: tuple[Member, ...] = ()
    errors: tuple[ProbeError, ...] = ()

    @property
    def offenders(self) -> tuple[Member, ...]:
        """The members that make the group not viable."""
        return tuple(member for member in self.members if member.offends)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


@dataclass(frozen=True, slots=True)
class Holders(Value):
    """The result of a search for holders. Iteration yields the holders.

    Attributes:
        holders: The holders, ordered by group and pid.
        coverage: The coverage of the search.
    """

    holders: tuple[Holder, ...] = ()
    coverage: ScanCoverage = field(default_factory=ScanCoverage)

    def __iter__(self) -> Iterator[Holder]:
        return iter(self.holders)

    def __len__(self) -> int:
        return len(self.holders)


@dataclass(frozen=True, slots=True)
class WatchedGroup(Value):
    """The state of an IOMMU group as a watch knows it.

    Attributes:
        group: The number of the IOMMU group.
        occupancy: The occupancy of the group.
        evidence: The observation that the occupancy is based on.
        since: The time of the latest change of the occupancy, in seconds of time.monotonic().
        peek: The result of the latest peek. None before the first.
        viable: True if VFIO can use the group.
        offender: The name of the first member that makes the group not viable, or None.
        offender_driver: The driver of the offender, or None.
        members: The members, ordered by name.
    """

    group: int
    occupancy: Occupancy
    evidence: Evidence = Evidence.NONE
    since: float = 0.0
    peek: Peek | None = None
    viable: bool = True
    offender: str | None = None
    offender_driver: str | None = None
    members: tuple[Member, ...] = ()

    @property
    def offenders(self) -> tuple[Member, ...]:
        """The members that make the group not viable."""
        return tuple(member for member in self.members if member.offends)


@dataclass(frozen=True, slots=True)
class GroupSnapshot(Value):
    """The state of an IOMMU group at one moment.

    Attributes:
        group: The number of the IOMMU group.
        occupancy: The occupancy of the group.
        evidence: The observation that the occupancy is based on.
        peek: The result of the peek.
        viable: True if VFIO can use the group.
        offender: The name of the first member that makes the group not viable, or None.
        offender_driver: The driver of the offender, or None.
        members: The members, ordered by name.
        holders: The processes that hold the group, ordered by pid.
    """

    group: int
    occupancy: Occupancy
    evidence: Evidence = Evidence.NONE
    peek: Peek = Peek.UNAVAILABLE
    viable: bool = True
    offender: str | None = None
    offender_driver: str | None = None
    members: tuple[Member, ...] = ()
    holders: tuple[Holder, ...] = ()

    @property
    def offenders(self) -> tuple[Member, ...]:
        """The members that make the group not viable."""
        return tuple(member for member in self.members if member.offends)


@dataclass(frozen=True, slots=True)
class Snapshot(Value):
    """All bound devices at one moment, with their groups and holders. Iteration yields the devices.

    Attributes:
        devices: The devices, ordered by id.
        groups: The groups of the devices, ordered by number.
        coverage: The coverage of the search for holders.
        errors: The errors of the devices, groups and processes that could not be read.
    """

    devices: tuple[Device, ...] = ()
    groups: tuple[GroupSnapshot, ...] = ()
    coverage: ScanCoverage = field(default_factory=ScanCoverage)
    errors: tuple[ProbeError, ...] = ()

    # `group`, as everywhere: the number of an IOMMU group.
    def group(self, group: int) -> GroupSnapshot | None:
        """Returns a group by its number, or None if no device of the snapshot is in it."""
        return next((each for each in self.groups if each.group == group), None)

    def __iter__(self) -> Iterator[Device]:
        return iter(self.devices)

    def __len__(self) -> int:
        return len(self.devices)
