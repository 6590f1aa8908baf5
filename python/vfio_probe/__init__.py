"""Reports which VFIO devices of a Linux host are free and which processes hold the others.

Only Root.probe(), a snapshot with a probe_timeout and a watch with probe=True open a group. All other calls
open no device.
"""

from vfio_probe._core import (
    Device,
    Event,
    Group,
    GroupSnapshot,
    Holder,
    Holders,
    Member,
    Members,
    Occupancy,
    Root,
    Scan,
    ScanCoverage,
    Snapshot,
    Watch,
    WatchedGroup,
    __version__,
    names,
)
from vfio_probe._enums import (
    ErrorKind,
    EventKind,
    Evidence,
    InPod,
    Kind,
    Peek,
    PidNamespace,
    Sriov,
    State,
    UnknownReason,
    Via,
)
from vfio_probe._errors import (
    DeniedError,
    HeldError,
    MalformedError,
    MissingError,
    ProbeError,
    ProbeTimeoutError,
    TooLongError,
)

__all__ = [
    "DeniedError",
    "Device",
    "ErrorKind",
    "Event",
    "EventKind",
    "Evidence",
    "Group",
    "GroupSnapshot",
    "HeldError",
    "Holder",
    "Holders",
    "InPod",
    "Kind",
    "MalformedError",
    "Member",
    "Members",
    "MissingError",
    "Occupancy",
    "Peek",
    "PidNamespace",
    "ProbeError",
    "ProbeTimeoutError",
    "Root",
    "Scan",
    "ScanCoverage",
    "Snapshot",
    "Sriov",
    "State",
    "TooLongError",
    "UnknownReason",
    "Via",
    "Watch",
    "WatchedGroup",
    "__version__",
    "names",
]
for _class in (
    ProbeError,
    MissingError,
    DeniedError,
    MalformedError,
    TooLongError,
    HeldError,
    ProbeTimeoutError,
):
    _class.__module__ = __name__
del _class
