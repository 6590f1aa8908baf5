"""Measures calls: `calls.py ROOT FREE_GROUP HELD_GROUP FREE_DEVICE` prints one line of JSON.

Run it with `vfio-sim-node exec`: with CAP_SYS_ADMIN the open of a held group would succeed.
"""

import json
import sys
import timeit
from collections.abc import Callable
from pathlib import Path

from vfio_probe import Root, State

ROUNDS = 200
MIN_ROUND_SECONDS = 0.002
"""Minimum duration of a round. Short, so that another program rarely interrupts all rounds."""


def nanoseconds(call: Callable[[], object]) -> int:
    """Returns the time of one call in the best round."""
    timer = timeit.Timer(call)
    calls, seconds = 1, 0.0
    while seconds < MIN_ROUND_SECONDS:
        calls *= 2
        seconds = timer.timeit(calls)
    return round(min(timer.repeat(ROUNDS, calls)) / calls * 1e9)


def main(path: str, free: int, held: int, device: str) -> None:
    """Measures the calls and prints the figures."""
    enable = Path(path, "sys/bus/pci/devices", device, "enable")
    with Root(path) as root, root.watch() as watch:
        states = root.probe(free).state, root.probe(held).state
        if states != (State.FREE, State.HELD):
            sys.exit(f"groups {free} and {held} must be free and held, not {states[0]} and {states[1]}")
        if not watch.wait_until_held(held, timeout=20):
            sys.exit("the watch is not ready")
        figures = {
            "enable_ns": nanoseconds(enable.read_text),
            "watch_ns": nanoseconds(lambda: watch.group(free)),
            "peek_ns": nanoseconds(lambda: root.peek(free)),
            "probe_free_ns": nanoseconds(lambda: root.probe(free)),
            "probe_held_ns": nanoseconds(lambda: root.probe(held)),
            "nodes_ns": nanoseconds(lambda: root.device_nodes(free)),
            "hardware_ns": nanoseconds(lambda: root.hardware(device)),
            "scan_ns": nanoseconds(root.scan),
            "snapshot_ns": nanoseconds(root.snapshot),
        }
    print(json.dumps({"language": "python", **figures}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
