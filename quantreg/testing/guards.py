"""Arrays next to forbidden pages, and child processes in which a codec may crash: the parent says what happened."""

import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from quantreg.faults import told
from quantreg.testing.report import NotApplicable

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["FILL", "GuardedArrays", "can_fork", "end_with", "run_guarded"]

FILL: int = 0xA5  # the byte in memory that nothing has been written to

_PAGE = mmap.PAGESIZE
_SECONDS = 120
_PR_SET_PDEATHSIG = 1  # of prctl in Linux
_CRASHES = {  # what a signal means, and where to look
    "SIGSEGV": "it reads or writes outside its buffers: check every index against n_cols and the number of blocks",
    "SIGBUS": "it reads or writes outside its buffers: check every index against n_cols and the number of blocks",
    "SIGABRT": "the C library stopped it, as it does when memory is damaged: look for writes outside a buffer",
    "SIGFPE": "it divides an integer by zero, or the smallest integer by -1",
    "SIGILL": "it uses an instruction that this processor lacks, or reached code that must not be reached",
    "SIGKILL": "the system killed it, as it does when memory runs out: allocate nothing that grows with the rows",
}


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
                raise AssertionError("it writes outside its output: write only the bytes of each row")


def can_fork() -> bool:
    """Whether this system can run checks in a child process."""
    return hasattr(os, "fork")


def run_guarded(cases: Iterable[tuple[str, Callable[[], object]]], seconds: int = _SECONDS) -> None:
    """Run the function of each (words, function) in one child process, which also makes the cases.

    Raises AssertionError with the words of the case that failed or crashed, or that was still running after so many
    seconds; NotApplicable if a case raises it, or where the system has no fork().
    """
    if not can_fork():
        raise NotApplicable("this system has no fork()")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    with warnings.catch_warnings():  # Python 3.12 warns if there are threads; the child needs none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _child(cases, seconds, reader, writer, parent)
    os.close(writer)
    try:
        with os.fdopen(reader, encoding="utf-8") as pipe:
            lines = pipe.read().splitlines()
        status = os.waitpid(child, 0)[1]
    except BaseException:  # such as Ctrl-C, which need not reach the child
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return
    found = {"case": "before the first case"}  # the last line of each kind
    for line in lines:
        kind, _, text = line.partition(" ")
        found[kind] = text
    if "inapplicable" in found:
        raise NotApplicable(found["inapplicable"])
    words = f"{found['case']}: " if found["case"] else ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            raise AssertionError(f"{words}still running after {seconds} s: look for a loop that does not end")
        name = signal.Signals(number).name
        raise AssertionError(f"{words}{name}: {_CRASHES.get(name, 'it ended the process')}")
    if "failed" not in found:
        code = os.WEXITSTATUS(status)
        raise AssertionError(f"{words}it ended the process with exit code {code}: raise an error instead")
    raise AssertionError(f"{words}{found['failed']}")


def end_with(parent: int) -> None:
    """End this process, which was forked by ``parent``, when that ends, by a kill too. Only Linux can do this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)


def _child(
    cases: Iterable[tuple[str, Callable[[], object]]], seconds: int, reader: int, writer: int, parent: int
) -> NoReturn:
    status = 1
    try:
        os.close(reader)
        end_with(parent)
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        for words, function in cases:
            os.write(writer, f"case {words}\n".encode())
            function()
        status = 0
    except NotApplicable as why:
        _report(writer, "inapplicable", str(why))
    except BaseException as error:  # whatever it is: the parent tells it
        _report(writer, "failed", str(error) if isinstance(error, AssertionError) else told(error))
    finally:
        os._exit(status)


def _report(writer: int, kind: str, words: str) -> None:
    os.write(writer, f"{kind} {' '.join(words.split())}\n".encode())


def _forbid(address: int) -> None:
    """Make the page at this address neither readable nor writable."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
