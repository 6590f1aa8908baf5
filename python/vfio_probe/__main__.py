"""The command line `vfio-probe`: lists devices, finds holders, prints events, waits for a group.

Exit codes: 0 success; 1 no process holds the target of `who`, or the time of `wait` was up; 2 failure; 3
`who` found no holder and could not see all processes of the host; 64 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
from typing import NoReturn

from vfio_probe import _commands, _output
from vfio_probe._core import Root, __version__
from vfio_probe._enums import State


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _output.warn(f"{self.format_usage()}{self.prog}: {message}")
        # EX_USAGE, like vfio-device-plugin.
        sys.exit(64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text[:80]!r}") from None


def _interval(text: str) -> float:
    seconds = _number(text)
    if not 0.001 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"must be between 0.001 and 86400 seconds, not {text[:80]!r}")
    return seconds


def _timeout(text: str) -> float:
    seconds = _number(text)
    if math.isnan(seconds) or seconds < 0:
        raise argparse.ArgumentTypeError(
            f"must be a number of seconds that is not negative, not {text[:80]!r}"
        )
    return seconds


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
        "--interval",
        type=_interval,
        default=1.0,
        metavar="SECONDS",
        help="time between two peeks (default: 1)",
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
        "--timeout", type=_timeout, metavar="SECONDS", help="exit with 1 after this time (default: no limit)"
    )
    return parser


def main(words: list[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    try:
        return _run(_parse(words))
    except KeyboardInterrupt:
        return 130
    except _commands.UsageError as error:
        _output.warn(f"vfio-probe: {error}")
        return 64
    except (OSError, _commands.CommandError, _output.OutputError) as error:
        _output.warn(f"vfio-probe: {error}")
        return 2


def _parse(words: list[str] | None) -> argparse.Namespace:
    text = io.StringIO()
    try:
        # argparse ignores a failed write of the help and the version.
        with contextlib.redirect_stdout(text):
            return _parser().parse_args(words)
    except SystemExit:
        if text.getvalue():
            _output.write(text.getvalue().rstrip("\n"))
        raise


def _run(arguments: argparse.Namespace) -> int:
    with Root(arguments.root) as root:
        if arguments.command == "list":
            return _commands.list_devices(root, arguments.probe, arguments.json)
        if arguments.command == "who":
            return _commands.who(root, arguments.target, arguments.json)
        if arguments.command == "wait":
            return _commands.wait(root, arguments.target, arguments.state, arguments.timeout, arguments.json)
        return _commands.watch(root, arguments.interval, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
