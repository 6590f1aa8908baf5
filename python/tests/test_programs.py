"""Tests the examples, the programs and the examples of the documentation."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sim_node import GPUS, REPOSITORY, Node

EXAMPLES = REPOSITORY / "python/examples"


def run(program: Path, *words: str | Path) -> str:
    """Runs a program and returns its output."""
    done = subprocess.run(
        [sys.executable, program, *map(str, words)], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return done.stdout


def test_example_list_devices_prints_holders(node: Node) -> None:
    pid = node.start_vm(51)
    lines = run(EXAMPLES / "list_devices.py", node.root).splitlines()
    assert lines[0] == f"0000:1b:00.0 held by pid {pid} (qemu-system-x86)"
    assert lines[1:] == [f"{address} free" for group, address in GPUS.items() if group != 51]
    assert len((EXAMPLES / "list_devices.py").read_text().splitlines()) <= 15


def test_example_watch_asyncio_prints_held_and_free(node: Node) -> None:
    pid = node.start_vm(51)
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "watch_asyncio.py", str(node.root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"group 51 held by {pid}\n"
    node.kill_vm(pid)
    assert process.communicate(timeout=60)[0] == "group 51 free again\n"
    assert process.returncode == 0


def test_examples_of_the_documentation_run(
    node: Node, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Runs each block of docs/python.md with the root of the simulated node."""
    pid = node.start_vm(51)
    node.start_vm(52, group_only=True)
    text = (REPOSITORY / "docs/python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) >= 3
    outputs = []
    for number, block in enumerate(blocks):
        program = tmp_path / f"block{number}.py"
        program.write_text(block.replace("Root()", f"Root({str(node.root)!r})"))
        runpy.run_path(str(program))
        outputs.append(capsys.readouterr().out)
    assert f"0000:1b:00.0 held [{pid}]" in outputs[0]
    assert "group 52: held" in outputs[1]


def test_benchmark_prints_every_figure(node: Node) -> None:
    node.start_vm(51)
    figures: dict[str, Any] = json.loads(
        run(REPOSITORY / "python/benches/calls.py", node.root, "52", "51", "0000:3d:00.0")
    )
    assert figures.pop("language") == "python"
    assert set(figures) == {
        "enable_ns",
        "watch_ns",
        "peek_ns",
        "probe_free_ns",
        "probe_held_ns",
        "nodes_ns",
        "hardware_ns",
        "scan_ns",
        "snapshot_ns",
    }
    assert all(isinstance(figure, int) and figure > 0 for figure in figures.values())


DUMP = REPOSITORY / "tests/conformance/dump.py"


def test_conformance_dump_is_complete(node: Node) -> None:
    pid = node.start_vm(51, pod_uid="12345678-9abc-def0-1234-56789abcdef0", container_id="ab" * 32)
    node.do("add", address="0000:3d:00.1", group=52, driver="snd_hda_intel")
    node.do("write", path="sys/bus/pci/devices/0000:df:00.0/uevent", content="")
    document: dict[str, Any] = json.loads(run(DUMP, node.root))
    assert set(document) == {"group_nodes", "devices", "errors", "groups", "holders", "coverage", "snapshot"}
    device = document["devices"][0]
    cdev = device.pop("cdev")
    assert isinstance(cdev, int)
    assert device == {
        "id": "0000:1b:00.0",
        "vendor": 0x10DE,
        "device": 0x2330,
        "subsystem_vendor": 0x10DE,
        "subsystem_device": 0x16C1,
        "class": 0x030200,
        "driver": "vfio-pci",
        "group": 51,
        "numa_node": 0,
        "sriov": "none",
        "vfs": 0,
        "kind": "pci",
        "vgpu_type": None,
        "parent": None,
    }
    assert document["errors"] == [
        {
            "device": "0000:df:00.0",
            "group": None,
            "kind": "malformed",
            "errno": 0,
            "text": "0000:df:00.0: uevent: unexpected content",
        }
    ]
    groups = document["groups"]
    assert [group["group"] for group in groups] == list(range(51, 58))
    assert groups[1] == {
        "group": 52,
        "viable": False,
        "unreadable": 0,
        "offender": "0000:3d:00.1",
        "offender_driver": "snd_hda_intel",
        "offenders": 1,
        "members": [
            {"name": "0000:3d:00.0", "driver": "vfio-pci", "vfio": True, "offends": False},
            {"name": "0000:3d:00.1", "driver": "snd_hda_intel", "vfio": False, "offends": True},
        ],
        "errors": [],
        "peek": "looks-free",
        "state": "free",
        "unknown_reason": None,
        "errno": 0,
    }
    assert (groups[0]["state"], groups[0]["peek"]) == ("held", "looks-held")
    (holder,) = document["holders"]
    assert holder.pop("start_time") > 0
    assert abs(time.time() - holder.pop("started")) < 600
    assert holder.pop("uid") == os.geteuid()
    assert holder == {
        "group": 51,
        "pid": pid,
        "command": "qemu-system-x86",
        "via": "group",
        "in_pod": "yes",
        "pod_uid": "12345678-9abc-def0-1234-56789abcdef0",
        "container_id": "ab" * 32,
    }
    assert document["coverage"] == {
        "processes": 2,
        "unreadable": 0,
        "unattributed": 0,
        "unsearched": 0,
        "pid_namespace": "host",
        "complete": True,
    }
    assert document["snapshot"][:2] == [
        {"group": 51, "state": "held", "evidence": "holder", "holders": [pid]},
        {"group": 52, "state": "free", "evidence": "enable", "holders": []},
    ]


def test_conformance_dump_of_a_broken_tree_is_an_error(node: Node, tmp_path: Path) -> None:
    missing = "No such file or directory"
    shape = {"device": None, "group": None, "kind": "missing", "errno": 2}
    document = json.loads(run(DUMP, tmp_path))
    assert document == {"error": {**shape, "text": f"sys/bus/pci/drivers: {missing}"}}
    document = json.loads(run(DUMP, "/nowhere"))
    assert document == {"error": {**shape, "text": f"root directory /nowhere: {missing}"}}
    node.do("delete", path="sys/kernel/iommu_groups/51/devices")
    group = json.loads(run(DUMP, node.root))["groups"][0]
    text = "group 51: no such IOMMU group"
    occupancy = {"group": 51, "state": "free", "unknown_reason": None, "errno": 0}
    assert group == {**occupancy, "error": {**shape, "group": 51, "text": text}}
