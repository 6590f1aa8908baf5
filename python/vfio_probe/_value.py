"""The base class of the values: order, JSON and pickling."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import re
from typing import Any, ClassVar

from vfio_probe._errors import ProbeError


def _plain(value: object) -> Any:
    if isinstance(value, (Value, ProbeError)):
        return value.as_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    return value


def _key(value: object) -> tuple[Any, ...]:
    """Returns a sort key. None comes before every other value."""
    if value is None:
        return ()
    if isinstance(value, Value):
        return tuple(_key(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        return tuple(_key(item) for item in value)
    return (str(value) if isinstance(value, ProbeError) else value,)


def _attribute(doc: str | None, name: str) -> str | None:
    """Returns the text of a name in the section Attributes of a docstring."""
    # The compiler of CPython 3.13 removes the common indentation of a docstring, older ones keep it.
    found = re.search(rf"^( +){name}: (.*(?:\n\1 +.*)*)", doc or "", re.MULTILINE)
    return None if found is None else re.sub(r"\s+", " ", found[2])


@dataclasses.dataclass(frozen=True)
class Value:
    """A frozen value. Values of one class are ordered by their fields, None first."""

    __slots__ = ()

    _derived: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        # dataclass() makes a second class, with slots. help() reads the text of a field there.
        names = cls.__dict__.get("__slots__")
        if names:
            type.__setattr__(cls, "__slots__", {name: _attribute(cls.__doc__, name) for name in names})

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields and the derived properties as a dict of plain types.

        json.dumps() and pandas.DataFrame() accept it. Enum members become str, tuples become lists, times
        become texts in ISO 8601. Values and errors in it become dicts.
        """
        names = (*(field.name for field in dataclasses.fields(self)), *self._derived)
        return {name: _plain(getattr(self, name)) for name in names}

    def __lt__(self, other: object) -> bool:
        return _key(self) < _key(other) if type(other) is type(self) else NotImplemented

    def __le__(self, other: object) -> bool:
        return _key(self) <= _key(other) if type(other) is type(self) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return _key(self) > _key(other) if type(other) is type(self) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return _key(self) >= _key(other) if type(other) is type(self) else NotImplemented

    # dataclass(slots=True) of Python 3.10 sets them only for a class that it gives slots itself.
    def __getstate__(self) -> list[object]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def __setstate__(self, state: list[object]) -> None:
        for field, value in zip(dataclasses.fields(self), state, strict=True):
            object.__setattr__(self, field.name, value)
