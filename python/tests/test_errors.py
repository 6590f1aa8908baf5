"""Tests the exceptions: plain Python classes, subclasses of the matching OSError subclass."""

import copy
import errno
import json
import os
import pickle
from pathlib import Path

import pytest
from sim_node import Node

import vfio_probe
from vfio_probe import (
    DeniedError,
    ErrorKind,
    HeldError,
    MalformedError,
    MissingError,
    ProbeError,
    ProbeTimeoutError,
    Root,
    TooLongError,
)

CLASSES: dict[type[ProbeError], tuple[ErrorKind, type[OSError]]] = {
    ProbeError: (ErrorKind.SYSTEM, OSError),
    MissingError: (ErrorKind.MISSING, FileNotFoundError),
    DeniedError: (ErrorKind.DENIED, PermissionError),
    MalformedError: (ErrorKind.MALFORMED, OSError),
    TooLongError: (ErrorKind.TOO_LONG, OSError),
    HeldError: (ErrorKind.SYSTEM, OSError),
    ProbeTimeoutError: (ErrorKind.SYSTEM, TimeoutError),
}


def state(error: ProbeError) -> tuple[object, ...]:
    return (
        type(error),
        error.args,
        error.kind,
        error.errno,
        error.strerror,
        error.device,
        error.group,
        error.filename,
        str(error),
        repr(error),
    )


@pytest.mark.parametrize("kind", CLASSES)
def test_exceptions_can_be_pickled_and_copied(kind: type[ProbeError]) -> None:
    expected, base = CLASSES[kind]
    error = kind(errno.EBUSY, "busy", "dev/vfio/51", device="0000:1b:00.0", group=51, text="group 51: busy")
    assert isinstance(error, (OSError, base, ProbeError))
    assert issubclass(kind, base)
    assert kind.kind is expected
    assert (error.errno, error.strerror, str(error)) == (16, "busy", "group 51: busy")
    assert (error.device, error.group, error.filename) == ("0000:1b:00.0", 51, "dev/vfio/51")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert state(pickle.loads(pickle.dumps(error, protocol))) == state(error)
    assert state(copy.copy(error)) == state(error)
    assert copy.copy(error) == error
    assert hash(copy.copy(error)) == hash(error)
    assert error != kind(errno.EBUSY, "busy")
    assert state(copy.deepcopy(error)) == state(error)
    assert kind.__module__ == "vfio_probe"
    assert getattr(vfio_probe, kind.__name__) is kind


def test_every_error_kind_has_a_class() -> None:
    core_classes = [error for error in CLASSES if error not in (HeldError, ProbeTimeoutError)]
    assert sorted(error.kind for error in core_classes) == sorted(ErrorKind)


def test_exceptions_can_be_subclassed() -> None:
    class OursError(MissingError):
        pass

    error = OursError(errno.ENOENT, "gone")
    assert (error.kind, error.device, error.group) == (ErrorKind.MISSING, None, None)
    with pytest.raises(FileNotFoundError, match="gone$"):
        raise error


def test_errors_of_a_scan_can_be_raised_and_pickled(node: Node, root: Root) -> None:
    node.do("write", path="sys/bus/pci/devices/0000:1b:00.0/uevent", content="")
    (error,) = root.scan().errors
    assert state(pickle.loads(pickle.dumps(error))) == state(error)
    with pytest.raises(MalformedError, match="^0000:1b:00.0: uevent: ") as raised:
        raise error
    assert raised.value.device == "0000:1b:00.0"


def test_long_attribute_is_too_long_error(node: Node, root: Root) -> None:
    node.do("write", path="sys/bus/pci/devices/0000:1b:00.0/uevent", content="x" * 5000)
    (error,) = root.scan().errors
    assert (type(error), error.kind, error.errno) == (TooLongError, "too-long", errno.E2BIG)
    assert str(error) == "0000:1b:00.0: uevent: longer than the kernel's limit"


def test_unreadable_attribute_is_denied_error(node: Node, root: Root) -> None:
    uevent = node.root / "sys/bus/pci/devices/0000:1b:00.0/uevent"
    uevent.chmod(0)
    with node.denied(51):
        scan = root.scan()
    (error,) = scan.errors
    assert (type(error), error.kind, error.errno) == (DeniedError, "denied", errno.EACCES)
    assert str(error) == "0000:1b:00.0: uevent: Permission denied"
    assert len(scan) == 7


def test_filename_is_the_whole_path(node: Node, root: Root, tmp_path: Path) -> None:
    nowhere = tmp_path / ("ünïcode-缺-" + "x" * 100) / "nowhere"
    with pytest.raises(MissingError) as raised:
        Root(nowhere)
    assert (raised.value.filename, raised.value.strerror) == (str(nowhere), "No such file or directory")
    assert str(raised.value) == f"root directory {nowhere}: No such file or directory"
    with pytest.raises(MissingError) as raised:
        root.device("0000:77:00.0")
    assert str(raised.value) == "0000:77:00.0: no such device on the pci bus"
    assert (raised.value.filename, raised.value.group) == ("sys/bus/pci/devices/0000:77:00.0", None)
    node.do("write", path="sys/bus/pci/devices/0000:1b:00.0/uevent", content="")
    (error,) = root.scan().errors
    assert error.filename == "sys/bus/pci/devices/0000:1b:00.0/uevent"
    assert json.loads(json.dumps(error.as_dict()))["text"] == str(error)


def test_path_that_is_not_utf_8_is_kept(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(MissingError) as raised:
        Root(path)
    assert raised.value.filename == path
    Path(path).mkdir()
    with Root(path) as root:
        assert root.path == path
