"""Which VFIO devices of a Linux host are free, and who holds the others.

Nothing here opens a group unless asked: Root.probe does, and a watch with probe=True.
"""

from vfio_probe._core import (
    Device,
    Event,
    Group,
    Holder,
    Holders,
    Looked,
    Member,
    Members,
    Occupancy,
    Root,
    Scan,
    Watch,
    WatchedGroup,
    __version__,
    names,
)
from vfio_probe._enums import ErrorKind, EventKind, Evidence, Kind, Peek, Sriov, State, Via, Why
from vfio_probe._errors import (
    DeniedError,
    HeldError,
    LateError,
    MalformedError,
    MissingError,
    ProbeError,
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
    "HeldError",
    "Holder",
    "Holders",
    "Kind",
    "LateError",
    "Looked",
    "MalformedError",
    "Member",
    "Members",
    "MissingError",
    "Occupancy",
    "Peek",
    "ProbeError",
    "Root",
    "Scan",
    "Sriov",
    "State",
    "TooLongError",
    "Via",
    "Watch",
    "WatchedGroup",
    "Why",
    "__version__",
    "names",
]
for _class in (ProbeError, MissingError, DeniedError, MalformedError, TooLongError, HeldError, LateError):
    _class.__module__ = __name__
del _class
