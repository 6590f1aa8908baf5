"""The words that values speak, the same in every language of vfio-probe."""

import enum


class _Word(str, enum.Enum):
    """A word; equal to its text."""

    # As enum.StrEnum does, which Python 3.10 does not have.
    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


class Kind(_Word):
    """What kind of device."""

    PCI = "pci"
    """A PCI function behind a driver built on vfio-pci-core."""
    MDEV = "mdev"
    """A mediated device."""
    VENDOR_VF = "vendor-vf"
    """A virtual function whose vendor driver is itself a VFIO driver."""


class Sriov(_Word):
    """What a device is in terms of SR-IOV."""

    NONE = "none"
    PHYSICAL = "physical"
    """A physical function that has virtual functions on."""
    VIRTUAL = "virtual"
    """A virtual function; its parent is the physical one."""


class Peek(_Word):
    """What a look without opening says of a group."""

    LOOKS_FREE = "looks-free"
    """No function is enabled. A holder that has the group but no device yet looks like this."""
    LOOKS_HELD = "looks-held"
    """A function is enabled."""
    BLIND = "blind"
    """Nothing tells: mediated devices, vendor virtual functions."""


class State(_Word):
    """Whether a group is held."""

    FREE = "free"
    """Nobody has it."""
    HELD = "held"
    """Some process has the group or a device of it open: EBUSY, or a watch saw a count rise."""
    ABSENT = "absent"
    """There is no node, or no device behind it."""
    UNKNOWN = "unknown"
    """It could not be told; neither free nor held."""


class Why(_Word):
    """Why a state is unknown."""

    DENIED = "denied"
    """The open was denied: EPERM by the device cgroup, EACCES by the node's mode."""
    LATE = "late"
    """No answer within the timeout."""
    ERRNO = "errno"
    """Any other errno."""
    NOT_ASKED = "not-asked"
    """Nobody asked yet; only a watch says so."""


class Evidence(_Word):
    """What a watch's word about a group rests on."""

    OPEN = "open"
    """An open of the group's node."""
    ENABLE = "enable"
    """The enable counts of its functions."""
    NODE = "node"
    """The presence of the node itself."""
    NONE = "none"
    """Nothing yet."""


class Via(_Word):
    """By which kind of descriptor a process holds a group."""

    GROUP = "group"
    """The group's node."""
    DEVICE = "device"
    """A device obtained from the group."""
    CDEV = "cdev"
    """A device's own node."""


class EventKind(_Word):
    """What happened."""

    BOUND = "bound"
    """A device was bound to a VFIO driver, or is seen for the first time."""
    UNBOUND = "unbound"
    """A device is no longer bound."""
    HELD = "held"
    """A group became held."""
    FREED = "freed"
    """A group became free."""
    CHANGED = "changed"
    """Something else about a group changed."""
    RESCAN = "rescan"
    """Kernel events were lost; everything was read anew."""


class ErrorKind(_Word):
    """What kind of trouble."""

    MISSING = "missing"
    """It is not there (ENOENT, ENODEV, ENXIO)."""
    DENIED = "denied"
    """We may not (EACCES, EPERM)."""
    MALFORMED = "malformed"
    """It is there, but its content is not what the kernel writes."""
    TOO_LONG = "too-long"
    """It is longer than the kernel's limit for it."""
    SYSTEM = "system"
    """Any other errno."""
