"""Tests the names of PCI device models."""

import os
from pathlib import Path

import pytest

from vfio_probe import MalformedError, MissingError, names

FILE = """\
# comment
1002  Advanced Micro Devices
\t2330  Wrong vendor
10de  NVIDIA Corporation
\t20b0  GA100 [A100 SXM4 40GB]
\t\t10de 1450  Subsystem
\t2330  GH100 [H100 SXM5 80GB]
8086  Intel Corporation
"""


def test_names_are_found_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pci.ids"
    path.write_text(FILE)
    wanted = [(0x10DE, 0x2330), (0x10DE, 0x20B0), (0x10DE, 0x9999)]
    expected = {(0x10DE, 0x2330): "GH100 [H100 SXM5 80GB]", (0x10DE, 0x20B0): "GA100 [A100 SXM4 40GB]"}
    assert names(wanted, path) == expected
    assert names(iter(wanted * 2), str(path)) == expected
    assert names([], path) == {}


def test_built_in_names_need_no_file() -> None:
    wanted = [(0x10DE, 0x2330), (0x10DE, 0xFFFF)]
    assert names(wanted) == {(0x10DE, 0x2330): "GH100 [H100 SXM5 80GB]"}


def test_missing_file_raises_missing_error(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="^pci.ids .*: No such file or directory") as error:
        names([(1, 2)], tmp_path / "nowhere")
    assert error.value.errno == 2


def test_fifo_or_device_raises_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(MalformedError, match="^pci.ids .*: not a regular file$") as error:
            names([(1, 2)], path)
        assert (error.value.errno, error.value.filename) == (0, str(path))
