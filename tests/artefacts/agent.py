"""Prints which device nodes a VM could get now and who holds the others, then waits until a group is free.

Usage: `agent.py ROOT GROUP`.
"""

import sys

from vfio_probe import Root, State


def main(path: str, wanted: int) -> None:
    """Prints the groups and waits."""
    with Root(path) as root:
        for seen in root.snapshot().groups:
            if seen.occupancy.state is State.FREE:
                nodes = root.device_nodes(seen.group)
                print(f"group {seen.group} free: {' '.join(nodes.group_mode() or ())}")
            elif seen.occupancy.state is State.HELD:
                for holder in seen.holders:
                    started = "?" if holder.started is None else int(holder.started.timestamp())
                    print(
                        f"group {seen.group} held ({seen.evidence}) by {holder.pid} {holder.command} "
                        f"uid {holder.uid} since {started}"
                    )
            else:
                print(f"group {seen.group} {seen.occupancy.state}")
        print(f"waiting for group {wanted}", flush=True)
        with root.watch() as watch:
            is_free = watch.wait_until_free(wanted, timeout=30)
        print(f"group {wanted} {'free' if is_free else 'still held'}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
