"""Time of one call: `calls.py ROOT GROUP_FREE GROUP_HELD` prints one line of JSON.

Below `vfio-sim-node exec`, or the held group's open succeeds.
"""

import json
import sys
import timeit
from collections.abc import Callable

from vfio_probe import Root, State

ROUNDS = 5
AT_LEAST = 0.2
"""Seconds that a round takes."""


def nanoseconds(call: Callable[[], object]) -> int:
    """The best of five rounds of enough calls, per call."""
    timer = timeit.Timer(call)
    calls, seconds = 1, 0.0
    while seconds < AT_LEAST:
        calls *= 2
        seconds = timer.timeit(calls)
    return round(min(timer.repeat(ROUNDS, calls)) / calls * 1e9)


def main(path: str, free: int, held: int) -> None:
    """Measures and prints."""
    with Root(path) as root:
        states = root.probe(free).state, root.probe(held).state
        if states != (State.FREE, State.HELD):
            sys.exit(f"groups {free} and {held} must be free and held, not {states[0]} and {states[1]}")
        figures = {
            "peek_ns": nanoseconds(lambda: root.peek(free)),
            "probe_free_ns": nanoseconds(lambda: root.probe(free)),
            "probe_held_ns": nanoseconds(lambda: root.probe(held)),
        }
    print(json.dumps({"language": "python", **figures}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
