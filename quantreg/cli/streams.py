"""Standard output belongs to the command, whose JSON other programs read: what plugins print goes to stderr."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from quantreg.faults import is_foreign

__all__ = ["guarded", "let_plugins_print"]


@contextmanager
def guarded(program: bool) -> Iterator[None]:
    """Send what plugins write to stdout to stderr instead, inside a with statement.

    ``program`` says that this process runs nothing but this command. Then file descriptor 1 is that of stderr until
    the process ends, so that the output of printf and of child processes goes there, too, even if it is flushed late.
    """
    before = sys.stdout
    if before is None or sys.stderr is None:  # closed
        yield
        return
    for stream in (before, sys.stderr):
        _accept_all(stream)
    moved = _move(before) if program else None
    sys.stdout = _Stdout(moved or before, moved is not None)
    try:
        yield
    finally:
        sys.stdout = before
        with suppress(OSError, ValueError):  # each line was flushed when it was printed: nothing is lost here
            (moved.close if moved else before.flush)()


def let_plugins_print() -> None:
    """Let plugins print to stdout from here on, for a subcommand that is a plugin's own."""
    if isinstance(sys.stdout, _Stdout):
        sys.stdout.open_to_all()


class _Stdout:
    """Takes the place of sys.stdout. Each write goes to stdout or to stderr, depending on who calls."""

    def __init__(self, out: TextIO, moved: bool) -> None:
        self._out = out
        self._moved = moved
        self._open = False

    def write(self, text: str) -> int:
        if self._open or not _called_by_a_plugin():
            return self._out.write(text)
        return sys.stderr.write(text)

    def open_to_all(self) -> None:
        self._open = True
        if self._moved:
            self._moved = False
            os.dup2(self._out.fileno(), 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


def _called_by_a_plugin() -> bool:
    """Whether the nearest caller that is quantreg's or a plugin's is a plugin's. This works in every thread."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        foreign = is_foreign(frame)
        if foreign is not None:
            return foreign
        frame = frame.f_back
    return False


def _accept_all(stream: TextIO) -> None:
    """Let a stream take every character: what its encoding lacks, as Windows' cp1252 does most, becomes an escape."""
    if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _move(stdout: TextIO) -> TextIO | None:
    """Give stdout another file descriptor, and its own to stderr. Return None if stdout is not file descriptor 1."""
    try:
        if stdout.fileno() != 1:
            return None
        stdout.flush()
        copy = os.dup(1)
    except (OSError, ValueError, AttributeError):
        return None
    try:
        os.dup2(2, 1)
    except OSError:
        os.close(copy)
        return None
    return open(copy, "w", encoding=stdout.encoding, errors=stdout.errors)
