"""Tests the command line `vfio-probe`, which is `python -m vfio_probe`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sim_node import Node

import vfio_probe

HEADING = "ADDRESS       GROUP  NUMA  ID         DRIVER    STATE  EVIDENCE  NOTE"


def run(*words: str | Path, code: int = 0, errors: str = "") -> str:
    """Runs the command and returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", "vfio_probe", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, errors)
    return done.stdout


def test_list_prints_state_evidence_and_holders(node: Node) -> None:
    pid = node.start_vm(51)
    node.do("add", address="0000:3d:00.1", group=52, driver="snd_hda_intel")
    lines = run("list", "--root", node.root).splitlines()
    assert lines[:4] == [
        HEADING,
        f"0000:1b:00.0  51     0     10de:2330  vfio-pci  held   holder    pid {pid} (qemu-system-x86)",
        "0000:3d:00.0  52     0     10de:2330  vfio-pci  free   enable    "
        "not viable: 0000:3d:00.1 is bound to snd_hda_intel",
        "0000:4e:00.0  53     0     10de:2330  vfio-pci  free   enable",
    ]
    assert len(lines) == 9
    assert node.opens(52) == 0


def test_list_finds_holder_of_the_group_only(node: Node) -> None:
    pid = node.start_vm(51, group_only=True)
    for words, evidence, opens in ((), "holder", 0), (("--probe",), "open  ", 1):
        line = run("list", *words, "--root", node.root).splitlines()[1]
        expected = f"0000:1b:00.0  51     0     10de:2330  vfio-pci  held   {evidence}    "
        assert line == f"{expected}pid {pid} (qemu-system-x86)"
        assert [node.opens(group) for group in (52, 53)] == [opens, opens]


def test_list_json_has_every_field(node: Node) -> None:
    uid, container = "12345678-9abc-def0-1234-56789abcdef0", "ab" * 32
    pid = node.start_vm(51, pod_uid=uid, container_id=container)
    devices: list[dict[str, Any]] = json.loads(run("list", "--json", "--root", node.root))["devices"]
    assert len(devices) == 8
    assert devices[0]["holders"][0].pop("started").endswith("+00:00")
    assert devices[0] == {
        "address": "0000:1b:00.0",
        "vendor": 0x10DE,
        "device": 0x2330,
        "class": 0x030200,
        "driver": "vfio-pci",
        "iommu_group": 51,
        "numa_node": 0,
        "kind": "pci",
        "state": "held",
        "evidence": "holder",
        "viable": True,
        "holders": [
            {
                "pid": pid,
                "command": "qemu-system-x86",
                "uid": os.geteuid(),
                "via": "group",
                "pod_uid": uid,
                "in_pod": "yes",
                "container_id": container,
            }
        ],
    }
    assert (devices[1]["state"], devices[1]["holders"]) == ("free", [])


def test_list_reports_skipped_devices(node: Node) -> None:
    node.do("write", path="sys/bus/pci/devices/0000:1b:00.0/uevent", content="")
    errors = "vfio-probe: skipped: 0000:1b:00.0: uevent: unexpected content\n"
    assert len(run("list", "--root", node.root, errors=errors).splitlines()) == 8


def test_list_without_devices_says_so(empty: Node) -> None:
    assert run("list", "--root", empty.root) == "No device is bound to a VFIO driver.\n"


@pytest.mark.parametrize("target", ["51", "0000:1b:00.0"])
def test_who_prints_holders_of_group_or_address(node: Node, target: str) -> None:
    none = "No process found that holds group 51.\n"
    assert run("who", target, "--root", node.root, code=1) == none
    pid = node.start_vm(51)
    lines = run("who", target, "--root", node.root).splitlines()
    assert [line.split() for line in lines] == [
        ["PID", "COMMAND", "VIA", "POD", "CONTAINER"],
        [str(pid), "qemu-system-x86", "group", "-", "-"],
    ]
    document = json.loads(run("who", target, "--json", "--root", node.root))
    assert (document["iommu_group"], document["processes"], document["unreadable"]) == (51, 2, 0)
    assert (document["pid_namespace"], document["unsearched"], document["complete"]) == ("host", 0, True)
    assert [holder["pid"] for holder in document["holders"]] == [pid]


def test_who_reports_unreadable_processes(node: Node) -> None:
    node.add_unreadable_process(4711)
    assert "The list may be incomplete: 1 of 2 processes could not be read" in run(
        "who", "51", "--root", node.root, code=3
    )


def test_who_in_a_foreign_pid_namespace_exits_with_3(node: Node) -> None:
    node.do("delete", path="proc/1/ns/pid")
    node.do("link", path="proc/1/ns/pid", target="pid:[4026532178]")
    assert "incomplete: this is not the host's pid namespace" in run("who", "51", "--root", node.root, code=3)
    document = json.loads(run("who", "51", "--json", "--root", node.root, code=3))
    assert (document["holders"], document["unreadable"], document["complete"]) == ([], 0, False)
    assert document["pid_namespace"] == "foreign"
    # A holder that was found counts.
    node.start_vm(51)
    run("who", "51", "--root", node.root)


def test_who_says_that_a_pod_is_unknown(node: Node) -> None:
    pid = node.start_vm(51, cgroup=f"0::/kata_overhead/{'ab' * 32}\n")
    lines = run("who", "51", "--root", node.root).splitlines()
    assert lines[1].split() == [str(pid), "qemu-system-x86", "group", "unknown", "ab" * 32]


def test_watch_prints_events_until_the_pipe_closes(node: Node) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vfio_probe", "watch", "--interval", "0.02", "--root", str(node.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    bound = sorted(process.stdout.readline() for _ in range(8))
    assert bound[0] == "bound    0000:1b:00.0\n"
    pid = node.start_vm(51)
    lines = iter(process.stdout.readline, "")
    held = next(line for line in lines if line.startswith("held"))
    assert held == f"held     group 51 (0000:1b:00.0) by pid {pid} (qemu-system-x86)\n"
    node.kill_vm(pid)
    assert next(line for line in lines if line.startswith("freed")) == "freed    group 51 (0000:1b:00.0)\n"
    # A closed pipe is a normal end.
    process.stdout.close()
    node.start_vm(52)
    assert process.wait(30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_watch_json_has_holders_and_exits_130_on_sigint(node: Node) -> None:
    pid = node.start_vm(51)
    process = subprocess.Popen(
        [sys.executable, "-m", "vfio_probe", "watch", "--json", "--root", str(node.root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = map(json.loads, iter(process.stdout.readline, ""))
    held = next(line for line in lines if line["event"] == "held")
    assert (held["device"], held["group"]) == ("0000:1b:00.0", 51)
    assert [holder["pid"] for holder in held["holders"]] == [pid]
    process.send_signal(2)
    assert process.wait(30) == 130
    process.stdout.close()


def test_failure_exits_with_2(node: Node, tmp_path: Path) -> None:
    nowhere = f"vfio-probe: root directory {tmp_path}/nowhere: No such file or directory\n"
    done = subprocess.run(
        [sys.executable, "-m", "vfio_probe", "list", "--root", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == nowhere
    missing = "No such file or directory\n"
    run("list", "--root", tmp_path, code=2, errors=f"vfio-probe: sys/bus/pci/drivers: {missing}")
    run("watch", "--root", tmp_path, code=2, errors=f"vfio-probe: sys/bus/pci/drivers: {missing}")
    text = "vfio-probe: group 999: no such IOMMU group\n"
    run("who", "999", "--root", node.root, code=2, errors=text)


def test_wrong_usage_exits_with_64(node: Node) -> None:
    for words in ([], ["nonsense"], ["list", "--nonsense"], ["who"], ["watch", "--interval", "x"]):
        done = subprocess.run(
            [sys.executable, "-m", "vfio_probe", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (64, "")
        assert done.stderr.startswith("usage: vfio-probe")


SECONDS = [
    ("x", "must be a number of seconds, not 'x'"),
    ("", "must be a number of seconds, not ''"),
    ("1s", "must be a number of seconds, not '1s'"),
]
TIMEOUTS = [
    *SECONDS,
    *(
        (bad, f"must be a number of seconds that is not negative, not {bad!r}")
        for bad in ("-1", "nan", "-0.1")
    ),
]
INTERVALS = [
    *SECONDS,
    *(
        (bad, f"must be between 0.001 and 86400 seconds, not {bad!r}")
        for bad in ("0", "-1", "nan", "inf", "86401", "1e400")
    ),
]
TARGETS = [
    (
        bad,
        "GROUP|ADDRESS: must be the number of a group, a PCI address such as 0000:3b:00.0 or an mdev UUID, "
        f"not {shown}",
    )
    for bad, shown in (
        ("abc", "'abc'"),
        ("", "''"),
        ("-1", "'-1'"),
        ("4294967295", "'4294967295'"),
        ("4294967296", "'4294967296'"),
        ("9" * 100, "'" + "9" * 79 + "..."),
        ("1b:00.0", "'1b:00.0'"),
        ("\udcff", "'\\udcff'"),
    )
]


def refusal(node: Node, *words: str) -> str:
    """Runs a command that is refused as wrong usage; returns the last line on standard error."""
    command = [sys.executable, "-m", "vfio_probe", *words, "--root", str(node.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (64, ""), (words, done.stderr)
    return done.stderr.splitlines()[-1]


def test_bad_values_are_refused_in_the_words_of_the_option(node: Node) -> None:
    for bad, text in TIMEOUTS:
        line = refusal(node, "wait", "51", "--free", "--timeout", bad)
        assert line == f"vfio-probe wait: argument --timeout: {text}"
    for bad, text in INTERVALS:
        line = refusal(node, "watch", "--interval", bad)
        assert line == f"vfio-probe watch: argument --interval: {text}"
    for bad, text in TARGETS:
        assert refusal(node, "who", bad) == f"vfio-probe: {text}"
        assert refusal(node, "wait", bad, "--free") == f"vfio-probe: {text}"
    # Argparse takes it for an option.
    assert refusal(node, "wait", "51", "--free", "--timeout", "-inf").endswith("expected one argument")


@pytest.mark.parametrize("endless", ["inf", "1e300"])
def test_endless_timeout_is_accepted(node: Node, endless: str) -> None:
    assert run("wait", "51", "--free", "--timeout", endless, "--root", node.root) == "group 51 is free\n"


# Every command that prints a result, with its exit code if only group 51 is held.
PRINTING = [
    (["list"], 0),
    (["list", "--json"], 0),
    (["who", "51"], 0),
    (["who", "51", "--json"], 0),
    (["who", "52"], 1),
    (["watch"], 0),
    (["watch", "--json"], 0),
    (["wait", "51", "--held"], 0),
    (["wait", "51", "--free", "--timeout", "0"], 1),
    (["wait", "51", "--held", "--json"], 0),
]
TEXTS = [["--help"], ["list", "--help"], ["--version"]]


def redirected(words: list[str], redirection: str) -> tuple[int, str]:
    """Runs a command with a redirection of the shell; returns the exit code and standard error."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "vfio_probe", *words]
    done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        (">&-", "Bad file descriptor"),
        ("1</dev/null", "Bad file descriptor"),
        (">/dev/full", "No space left on device"),
    ],
)
def test_stdout_that_cannot_be_written_is_a_failure(node: Node, redirection: str, reason: str) -> None:
    node.start_vm(51)
    text = f"vfio-probe: cannot write to standard output: {reason}\n"
    for words in [*([*words, "--root", str(node.root)] for words, _ in PRINTING), *TEXTS]:
        assert redirected(words, redirection) == (2, text), words


def test_closed_pipe_ends_a_command_with_its_own_code(node: Node) -> None:
    node.start_vm(51)
    for words, code in [
        *(([*words, "--root", str(node.root)], code) for words, code in PRINTING),
        *((words, 0) for words in TEXTS),
    ]:
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "vfio_probe", *words]
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (code, ""), words


def test_closed_stderr_puts_no_message_into_the_result(node: Node) -> None:
    node.do("write", path="sys/bus/pci/devices/0000:1b:00.0/uevent", content="")
    command = [sys.executable, "-m", "vfio_probe", "list", "--json", "--root", str(node.root)]
    for redirection in ("2>&-", "2>/dev/full"):
        shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command]
        done = subprocess.run(shell, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
        assert done.returncode == 0
        assert len(json.loads(done.stdout)["devices"]) == 7
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "vfio_probe", "who"]
    done = subprocess.run(shell, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (64, "")


def test_version_is_printed() -> None:
    assert run("--version") == f"{vfio_probe.__version__}\n"


def test_wait_ends_when_the_group_is_free_or_held(node: Node) -> None:
    assert run("wait", "51", "--free", "--timeout", "30", "--root", node.root) == "group 51 is free\n"
    held = subprocess.Popen(
        [sys.executable, "-m", "vfio_probe", "wait", "0000:1b:00.0", "--held", "--root", str(node.root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = node.start_vm(51)
    assert held.communicate(timeout=60)[0].startswith("group 51 is held")
    assert held.returncode == 0
    words = ("wait", "51", "--free", "--timeout", "0.2", "--root", node.root)
    assert run(*words, code=1).startswith("group 51 is held")
    document = json.loads(run(*words, "--json", code=1))
    assert (document["iommu_group"], document["state"], document["reached"]) == (51, "held", False)
    assert [holder["pid"] for holder in document["holders"]] in ([], [pid])
    assert node.opens(51) == 0


def test_wait_refuses_wrong_usage_and_reports_failures(node: Node) -> None:
    for words in (["wait", "51"], ["wait", "51", "--free", "--held"], ["wait", "--free"]):
        done = subprocess.run([sys.executable, "-m", "vfio_probe", *words], capture_output=True, check=False)
        assert done.returncode == 64
    text = "vfio-probe: group 999: no such IOMMU group\n"
    run("wait", "999", "--free", "--root", node.root, code=2, errors=text)
