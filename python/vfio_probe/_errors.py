"""The exceptions: subclasses of OSError, raised, or returned as values about one device or member."""

from typing import ClassVar

from vfio_probe._enums import ErrorKind


class ProbeError(OSError):
    """A failure that concerns one file, device or group. The class itself stands for any other errno."""

    kind: ClassVar[ErrorKind] = ErrorKind.SYSTEM

    errno: int
    """The kernel's errno, or 0 if no system call failed."""
    strerror: str
    """The message, which str() returns too."""
    device: str | None
    """The id of the device concerned, or None."""
    group: int | None
    """The number of the IOMMU group concerned, or None."""

    def __init__(self, errno: int, text: str, device: str | None = None, group: int | None = None) -> None:
        # OSError keeps its two arguments in args; pickle and copy transfer the other two through __dict__.
        super().__init__(errno, text)
        self.device = device
        self.group = group

    def __str__(self) -> str:
        return self.strerror


class MissingError(ProbeError, FileNotFoundError):
    """A device, group, file or directory does not exist."""

    kind = ErrorKind.MISSING


class DeniedError(ProbeError, PermissionError):
    """The kernel denied the access."""

    kind = ErrorKind.DENIED


class MalformedError(ProbeError):
    """The content of a file is not in the format that the kernel writes. The errno is 0."""

    kind = ErrorKind.MALFORMED


class TooLongError(ProbeError):
    """A text exceeds the kernel's limit for it."""

    kind = ErrorKind.TOO_LONG


class HeldError(ProbeError):
    """The group is held; the errno is EBUSY. Raised only by Occupancy.raise_unless_free()."""


class ProbeTimeoutError(ProbeError, TimeoutError):
    """The probe timed out; the errno is ETIMEDOUT. Raised only by Occupancy.raise_unless_free()."""
