"""Fixtures of the tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sim_node import Node

from vfio_probe import Root

CAP_SYS_ADMIN = 21


def pytest_configure() -> None:
    """Ends the run if CAP_SYS_ADMIN is set: it may open an exclusive terminal, so no group is held."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if int(status["CapEff"], 16) >> CAP_SYS_ADMIN & 1:
        pytest.exit("run the tests with `vfio-sim-node exec`", returncode=2)


@pytest.fixture
def node() -> Iterator[Node]:
    """A node with eight GPUs, groups 51 to 58."""
    with Node("--eight-gpus") as node:
        yield node


@pytest.fixture
def empty() -> Iterator[Node]:
    """A node without devices."""
    with Node() as node:
        yield node


@pytest.fixture
def root(node: Node) -> Iterator[Root]:
    """The root of the eight-GPU node."""
    with Root(node.root) as root:
        yield root
