"""The command line `vfio-probe`: lists devices, finds holders, prints events, waits for a group.

Exit codes: 0 success; 1 no process holds the target of `who`, or the time of `wait` was up; 2 failure; 3
`who` found no holder and could not see all processes of the host; 64 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from vfio_probe import _commands
from vfio_probe._core import Root, __version__
from vfio_probe._enums import State


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        # EX_USAGE, like vfio-device-plugin.
        self.exit(64, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    shared = _Parser(add_help=False)
    shared.add_argument(
        "--root", default="/", metavar="DIR", help="directory that contains sys, dev and proc (default: /)"
    )
    shared.add_argument("--json", action="store_true", help="print JSON")
    parser = _Parser(
        prog="vfio-probe",
        description="Reports which VFIO devices are free and which processes hold the others.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    listing = commands.add_parser(
        "list", parents=[shared], help="list the devices, the states of their groups and the holders"
    )
    listing.add_argument(
        "--probe",
        action="store_true",
        help="open every group for a moment; the open of a VM fails during a probe",
    )
    holders = commands.add_parser(
        "who", parents=[shared], help="find the processes that hold a device or group"
    )
    holders.add_argument("target", metavar="GROUP|ADDRESS")
    changes = commands.add_parser(
        "watch", parents=[shared], help="print the events of all devices; opens no device"
    )
    changes.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="time between two peeks (default: 1)"
    )
    waiting = commands.add_parser(
        "wait", parents=[shared], help="wait until a group is free or held; opens no device"
    )
    waiting.add_argument("target", metavar="GROUP|ADDRESS")
    states = waiting.add_mutually_exclusive_group(required=True)
    states.add_argument(
        "--free", dest="state", action="store_const", const=State.FREE, help="wait until no process holds it"
    )
    states.add_argument(
        "--held", dest="state", action="store_const", const=State.HELD, help="wait until a process holds it"
    )
    waiting.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="exit with 1 after this time (default: no limit)"
    )
    return parser


def main(words: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    arguments = _parser().parse_args(words)
    try:
        with Root(arguments.root) as root:
            if arguments.command == "list":
                return _commands.list_devices(root, arguments.probe, arguments.json)
            if arguments.command == "who":
                return _commands.who(root, arguments.target, arguments.json)
            if arguments.command == "wait":
                return _commands.wait(
                    root, arguments.target, arguments.state, arguments.timeout, arguments.json
                )
            return _commands.watch(root, arguments.interval, arguments.json)
    except BrokenPipeError:
        # The reader closed the pipe: a normal end. The flush of buffered output at exit must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OverflowError) as error:
        _commands.warn(str(error))
        return 64
    except (OSError, _commands.CommandError) as error:
        _commands.warn(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
