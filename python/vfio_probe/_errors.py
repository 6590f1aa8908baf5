"""What can go wrong, as subclasses of OSError; raised, or given as values about one broken thing."""

from typing import ClassVar

from vfio_probe._enums import ErrorKind


class ProbeError(OSError):
    """Trouble about one place. The class itself stands for an errno that none of the subclasses is for."""

    kind: ClassVar[ErrorKind] = ErrorKind.SYSTEM

    errno: int
    """The kernel's errno, 0 where no system call failed."""
    strerror: str
    """The text, the same as str() gives."""
    device: str | None
    """The device that it is about, if it is about one."""
    group: int | None
    """The IOMMU group that it is about, if it is about one."""

    def __init__(self, errno: int, text: str, device: str | None = None, group: int | None = None) -> None:
        # args keep the two that OSError knows; the others travel in __dict__ when pickled or copied.
        super().__init__(errno, text)
        self.device = device
        self.group = group

    def __str__(self) -> str:
        return self.strerror


class MissingError(ProbeError, FileNotFoundError):
    """It is not there."""

    kind = ErrorKind.MISSING


class DeniedError(ProbeError, PermissionError):
    """We may not."""

    kind = ErrorKind.DENIED


class MalformedError(ProbeError):
    """It is there, but its content is not what the kernel writes; the errno is 0."""

    kind = ErrorKind.MALFORMED


class TooLongError(ProbeError):
    """It is longer than the kernel's limit for it."""

    kind = ErrorKind.TOO_LONG


class HeldError(ProbeError):
    """The group is held: the errno is EBUSY. Raised by Occupancy.raise_unless_free() only."""


class LateError(ProbeError, TimeoutError):
    """The group's open gave no answer in time. Raised by Occupancy.raise_unless_free() only."""
