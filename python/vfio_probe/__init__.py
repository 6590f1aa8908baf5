"""Reports which VFIO devices of a Linux host are free and which processes hold the others.

Only Root.probe(), a snapshot with a probe_timeout and a watch with probe=True open a group. All other calls
open no device.
"""

from vfio_probe._core import Root, Watch, __version__, names
from vfio_probe._enums import (
    ErrorKind,
    EventKind,
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
from vfio_probe._errors import (
    DeniedError,
    HeldError,
    MalformedError,
    MissingError,
    ProbeError,
    ProbeTimeoutError,
    TooLongError,
)
from vfio_probe._events import DeviceEvent, Event, GroupEvent, WatchEvent
from vfio_probe._values import (
    Device,
    DeviceNodes,
    Group,
    GroupSnapshot,
    Hardware,
    Holder,
    Holders,
    Member,
    Members,
    Occupancy,
    Scan,
    ScanCoverage,
    Snapshot,
    WatchedGroup,
)

__all__ = [
    "DeniedError",
    "Device",
    "DeviceEvent",
    "DeviceNodes",
    "ErrorKind",
    "Event",
    "EventKind",
    "Evidence",
    "Group",
    "GroupEvent",
    "GroupSnapshot",
    "Hardware",
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
    "Presence",
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
    "WatchEvent",
    "WatchedGroup",
    "__version__",
    "names",
]

# Their names in texts and pickles are those that programs import.
for _name in __all__:
    _thing = globals()[_name]
    if isinstance(_thing, type) and _thing.__module__ != __name__:
        _thing.__module__ = __name__
del _name, _thing
