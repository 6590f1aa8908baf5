"""Names of PCI devices from a pci.ids file."""

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


def test_names_of_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "pci.ids"
    path.write_text(FILE)
    wanted = [(0x10DE, 0x2330), (0x10DE, 0x20B0), (0x10DE, 0x9999)]
    expected = {(0x10DE, 0x2330): "GH100 [H100 SXM5 80GB]", (0x10DE, 0x20B0): "GA100 [A100 SXM4 40GB]"}
    assert names(wanted, path) == expected
    assert names(iter(wanted * 2), str(path)) == expected
    assert names([], path) == {}


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="^pci.ids .*: No such file or directory") as error:
        names([(1, 2)], tmp_path / "nowhere")
    assert error.value.errno == 2


def test_what_is_no_file_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(MalformedError, match="^pci.ids: not a regular file$") as error:
            names([(1, 2)], path)
        assert error.value.errno == 0
