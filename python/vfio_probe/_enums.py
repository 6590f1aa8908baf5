"""The enums of the module. Their words are the same in every language of vfio-probe."""

import enum


class _Word(str, enum.Enum):
    """An enum of words. Each member is equal to its word."""

    # Like enum.StrEnum, which Python 3.10 does not have.
    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


class Kind(_Word):
    """The kind of a device."""

    PCI = "pci"
    """A PCI function bound to a driver built on vfio-pci-core."""
    MDEV = "mdev"
    """A mediated device."""
    VENDOR_VF = "vendor-vf"
    """A virtual function with a vendor driver (nvidia) that is itself a VFIO driver."""


class Sriov(_Word):
    """The role of a PCI function in SR-IOV."""

    NONE = "none"
    """The function has no SR-IOV role."""
    PHYSICAL = "physical"
    """A physical function with enabled virtual functions."""
    VIRTUAL = "virtual"
    """A virtual function. Its parent is the physical function."""


class Peek(_Word):
    """The result of a peek, which opens nothing."""

    LOOKS_FREE = "looks-free"
    """No function of the group is enabled. A process that has only the group open is not visible."""
    LOOKS_HELD = "looks-held"
    """A function of the group is enabled: a process has the device open, or the count is left over."""
    UNAVAILABLE = "unavailable"
    """The group has no enable count: mediated devices and vendor virtual functions."""


class State(_Word):
    """The occupancy state of a group."""

    FREE = "free"
    """No process has the group open."""
    HELD = "held"
    """A process has the group or a device of it open: EBUSY from a probe, or a raised count in a watch."""
    ABSENT = "absent"
    """The group has no device node, or no device behind the node."""
    UNKNOWN = "unknown"
    """The state could not be determined. It is neither free nor held."""


class UnknownReason(_Word):
    """The reason for the state unknown."""

    DENIED = "denied"
    """The kernel denied the open: EPERM from the device cgroup, EACCES from the file mode."""
    TIMED_OUT = "timed-out"
    """The open did not return before the timeout."""
    ERRNO = "errno"
    """The open failed with another errno."""
    NOT_PROBED = "not-probed"
    """The watch has not probed the group yet."""


class Evidence(_Word):
    """The observation that the state of a group is based on."""

    OPEN = "open"
    """A probe: an open of the group's device node."""
    HOLDER = "holder"
    """A process in /proc that has the group or a device of it open."""
    ENABLE = "enable"
    """A peek: the enable counts of the group's functions."""
    NODE = "node"
    """The presence or absence of the device node."""
    NONE = "none"
    """There is no evidence yet."""


class Via(_Word):
    """The kind of descriptor by which a process holds a group."""

    GROUP = "group"
    """A descriptor of the group's device node, /dev/vfio/N."""
    DEVICE = "device"
    """A device descriptor obtained from the group."""
    CDEV = "cdev"
    """A descriptor of the device's own character device, /dev/vfio/devices/vfioN."""


class InPod(_Word):
    """Whether a process is in a pod."""

    YES = "yes"
    """The process is in the pod `pod_uid`."""
    NO = "no"
    """The process is in no pod."""
    UNKNOWN = "unknown"
    """The process is in the sandbox of a container runtime whose cgroup names no pod, as a VM of Kata, or its
    cgroup cannot be read. It never shows that a pod has ended."""


class Presence(_Word):
    """Whether the hardware of a PCI function responds."""

    PRESENT = "present"
    """The function responds."""
    LOST = "lost"
    """The registers read as all ones: the function, or a bridge above it, has fallen off the bus."""
    NOT_CHECKED = "not-checked"
    """The registers were not read: the function or the bridge above it sleeps, or the kernel does not report
    that (before 5.11)."""


class PidNamespace(_Word):
    """The pid namespace that a scan for holders saw."""

    HOST = "host"
    """The host's, which contains every process."""
    FOREIGN = "foreign"
    """Another one, as in a container. Processes outside of it are invisible."""
    UNKNOWN = "unknown"
    """/proc does not show its pid namespace, or hides the processes of other users."""


class EventKind(_Word):
    """The kind of an event."""

    BOUND = "bound"
    """A device was bound to a VFIO driver, or the watch found a bound device for the first time."""
    UNBOUND = "unbound"
    """A device is no longer bound to a VFIO driver."""
    HELD = "held"
    """A group became held."""
    FREED = "freed"
    """A group became free, or the watch found it free."""
    CHANGED = "changed"
    """The device node, the members or the holders of a group changed, or the watch found the group neither
    free nor held."""
    RESCAN = "rescan"
    """Events were lost: the kernel dropped some, or more than 1024 were queued during a wait. The watch is
    up to date."""
    READY = "ready"
    """The first pass is complete. Comes once, after the events of that pass. Without an event before it, no
    device is bound."""


class ErrorKind(_Word):
    """The kind of a ProbeError."""

    MISSING = "missing"
    """A device, group, file or directory does not exist (ENOENT, ENODEV, ENXIO)."""
    DENIED = "denied"
    """The kernel denied the access (EACCES, EPERM)."""
    MALFORMED = "malformed"
    """The content of a file is not in the format that the kernel writes."""
    TOO_LONG = "too-long"
    """A text exceeds the kernel's limit for it."""
    SYSTEM = "system"
    """A system call failed with any other errno."""
