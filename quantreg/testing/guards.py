"""Buffers with a forbidden page on either side, and a child process in which touching one is a finding, not a crash."""

import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import warnings

import numpy as np

from quantreg.testing.report import NotApplicable

__all__ = ["GuardedArrays", "run_guarded"]

PAGE = mmap.PAGESIZE
SECONDS = 120
FILL = 0xA5


class GuardedArrays:
    """Makes arrays whose first byte follows a forbidden page (side "front") or whose last byte precedes one ("back").

    `check()` says whether the rest of their pages is as it was: AssertionError if something was written there.
    """

    def __init__(self, side):
        self.side = side
        self._made = []

    def empty(self, shape, dtype):
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        body = max(1, -(-nbytes // PAGE)) * PAGE
        memory = mmap.mmap(-1, body + 2 * PAGE)
        whole = np.frombuffer(memory, np.uint8)
        whole[PAGE:-PAGE] = FILL
        start = PAGE if self.side == "front" else PAGE + body - nbytes
        _forbid(whole.ctypes.data)
        _forbid(whole.ctypes.data + PAGE + body)
        self._made.append((whole, body, start, nbytes))
        return np.frombuffer(memory, np.uint8, nbytes, start).view(dtype).reshape(shape)

    def copy(self, array):
        """The same values in guarded memory, read-only."""
        out = self.empty(array.shape, array.dtype)
        out[...] = array
        out.flags.writeable = False
        return out

    def check(self):
        for whole, body, start, nbytes in self._made:
            before, after = whole[PAGE:start], whole[start + nbytes : PAGE + body]
            if (before != FILL).any() or (after != FILL).any():
                raise AssertionError("it writes outside of its output")


def run_guarded(cases):
    """Run each (words, function) of the list in one child process.

    AssertionError with the words of the case that failed, crashed or did not end within two minutes. NotApplicable
    where there is no fork.
    """
    if not hasattr(os, "fork"):
        raise NotApplicable("needs fork(), which this system lacks")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():  # from Python 3.12 on: a fork while there are threads. The child starts none.
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
    words = lines[0] if lines else "at its start"
    for line in lines:
        words = line if line.startswith("case ") else words
    words = words.removeprefix("case ")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            raise AssertionError(f"{words}: not done after {SECONDS} s")
        raise AssertionError(f"{words}: {signal.Signals(number).name}: it reads or writes outside of its buffers")
    raise AssertionError(f"{words}: {lines[-1] if lines else 'failed'}")


def _child(cases, reader, writer):
    status = 1
    try:
        os.close(reader)
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        for words, function in cases:
            os.write(writer, f"case {words}\n".encode())
            try:
                function()
            except Exception as error:  # told to the parent
                os.write(writer, f"{type(error).__name__}: {error}\n".replace("\n", " ").encode() + b"\n")
                os._exit(1)
        status = 0
    finally:
        os._exit(status)


def _forbid(address):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
