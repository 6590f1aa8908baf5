"""Prints results on standard output and messages on standard error, for the command line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys


class OutputError(Exception):
    """Standard output cannot be written. The text is the message for the user."""


def write(text: str) -> bool:
    """Prints a result and a line end at once. Returns False if the reader has closed its pipe.

    The command then ends with its own exit code: the reader has what it wanted. Raises OutputError if the
    disk is full, or if standard output is closed or not open for writing.
    """
    try:
        # None if it was closed when the program started. print() would ignore the text.
        if sys.stdout is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        print(text, flush=True)
    except (BrokenPipeError, ConnectionResetError):
        _discard()
        return False
    except OSError as error:
        _discard()
        raise OutputError(f"cannot write to standard output: {error.strerror}") from None
    return True


def warn(text: str) -> None:
    """Prints a message on standard error. A failed write changes no exit code."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def _discard() -> None:
    """Discards what is buffered: the interpreter flushes it at its end, and must not fail again."""
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
