"""Arrays next to forbidden pages, and a child process that reports an access to such a page instead of crashing."""

import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from quantreg.testing.report import NotApplicable

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["FILL", "GuardedArrays", "run_guarded"]

FILL: int = 0xA5  # the byte in memory that nothing has been written to

_PAGE = mmap.PAGESIZE
_SECONDS = 120


class GuardedArrays:
    """Make arrays that touch a forbidden page: at their first byte (side "front") or at their last one ("back")."""

    def __init__(self, side: Literal["front", "back"]) -> None:
        self.side: Literal["front", "back"] = side
        self._made: list[tuple[NDArray[np.uint8], int, int, int]] = []

    def empty(self, shape: tuple[int, ...], dtype: "DTypeLike") -> "NDArray[Any]":
        """Return a new array whose bytes are all FILL."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        body = max(1, -(-nbytes // _PAGE)) * _PAGE
        memory = mmap.mmap(-1, body + 2 * _PAGE)
        whole = np.frombuffer(memory, np.uint8)
        whole[_PAGE:-_PAGE] = FILL
        start = _PAGE if self.side == "front" else _PAGE + body - nbytes
        _forbid(whole.ctypes.data)
        _forbid(whole.ctypes.data + _PAGE + body)
        self._made.append((whole, body, start, nbytes))
        return np.frombuffer(memory, np.uint8, nbytes, start).view(dtype).reshape(shape)

    def copy(self, array: "NDArray[Any]") -> "NDArray[Any]":
        """Return a read-only array with the same values."""
        out = self.empty(array.shape, array.dtype)
        out[...] = array
        out.flags.writeable = False
        return out

    def check(self) -> None:
        """Raise AssertionError if a byte outside the arrays, but on one of their pages, has changed."""
        for whole, body, start, nbytes in self._made:
            before, after = whole[_PAGE:start], whole[start + nbytes : _PAGE + body]
            if (before != FILL).any() or (after != FILL).any():
                raise AssertionError("it writes outside its output")


def run_guarded(cases: Sequence[tuple[str, Callable[[], object]]]) -> None:
    """Run the function of each (words, function) in one child process.

    Raises AssertionError with the words of the case that failed or crashed, or that was running after two minutes, and
    NotApplicable where the system has no fork().
    """
    if not hasattr(os, "fork"):
        raise NotApplicable("this system has no fork()")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():  # Python 3.12 warns if there are threads; the child needs none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _child(cases, reader, writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return
    words = lines[0] if lines else "before the first case"
    for line in lines:
        words = line if line.startswith("case ") else words
    words = words.removeprefix("case ")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            raise AssertionError(f"{words}: still running after {_SECONDS} s")
        raise AssertionError(f"{words}: {signal.Signals(number).name}: it reads or writes outside its buffers")
    raise AssertionError(f"{words}: {lines[-1] if lines else 'failed'}")


def _child(cases: Sequence[tuple[str, Callable[[], object]]], reader: int, writer: int) -> NoReturn:
    status = 1
    try:
        os.close(reader)
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_SECONDS)
        for words, function in cases:
            os.write(writer, f"case {words}\n".encode())
            try:
                function()
            except Exception as error:  # the parent reports it
                os.write(writer, f"{type(error).__name__}: {error}\n".replace("\n", " ").encode() + b"\n")
                os._exit(1)
        status = 0
    finally:
        os._exit(status)


def _forbid(address: int) -> None:
    """Make the page at this address neither readable nor writable."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
