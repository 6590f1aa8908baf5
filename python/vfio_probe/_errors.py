"""The exceptions: subclasses of OSError, raised, or returned as values about one device or member."""

from __future__ import annotations

from typing import Any, ClassVar

from vfio_probe._enums import ErrorKind


class ProbeError(OSError):
    """A failure that concerns one file, device or group. The class itself stands for any other errno.

    str() returns the full text: the place, the file and the reason.

    Attributes:
        kind: The kind of failure.
        errno: The kernel's errno, or 0 if no system call failed.
        strerror: The text of the errno, or the reason if no system call failed.
        filename: The path of the file. It is relative to the root (sys/bus/pci/devices/...), except for a
            path that the caller passed. None if the failure is not about a file.
        device: The id of the device concerned, or None.
        group: The number of the IOMMU group concerned, or None.
        text: The full text, or None for the text of OSError.
    """

    kind: ClassVar[ErrorKind] = ErrorKind.SYSTEM
    errno: int
    strerror: str
    filename: str | None
    device: str | None
    group: int | None
    text: str | None

    def __init__(
        self,
        errno: int,
        strerror: str,
        filename: str | None = None,
        *,
        device: str | None = None,
        group: int | None = None,
        text: str | None = None,
    ) -> None:
        # OSError keeps its arguments in args; pickle and copy transfer the others through __dict__.
        if filename is None:
            super().__init__(errno, strerror)
        else:
            super().__init__(errno, strerror, filename)
        self.device = device
        self.group = group
        self.text = text

    def __str__(self) -> str:
        return super().__str__() if self.text is None else self.text

    def _fields(self) -> tuple[object, ...]:
        return (type(self), self.args, self.filename, self.device, self.group, self.text)

    # Values contain errors and compare by value.
    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, ProbeError) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def as_dict(self) -> dict[str, Any]:
        """Returns the error as a dict of plain types, for json.dumps()."""
        return {
            "kind": self.kind.value,
            "errno": self.errno,
            "strerror": self.strerror,
            "filename": self.filename,
            "device": self.device,
            "group": self.group,
            "text": str(self),
        }


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
