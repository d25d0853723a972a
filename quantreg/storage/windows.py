"""Locks on Windows, with the functions of kernel32."""

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["lock_file", "one_at_a_time"]

_EXCLUSIVE, _AT_ONCE = 2, 1  # flags of LockFileEx
_LOCKED = 33  # ERROR_LOCK_VIOLATION
_FOREVER = 0xFFFFFFFF
_BEYOND_THE_END = 1 << 62  # Windows keeps others from reading what is locked: lock a byte that no file has


class _Overlapped(ctypes.Structure):
    """The structure OVERLAPPED, of which LockFileEx reads the position."""

    _fields_ = (
        ("internal", ctypes.c_void_p),
        ("internal_high", ctypes.c_void_p),
        ("offset", ctypes.c_uint32),
        ("offset_high", ctypes.c_uint32),
        ("event", ctypes.c_void_p),
    )


def _kernel() -> Any:
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.CreateMutexW.restype = ctypes.c_void_p
    return kernel


def _failed(what: str) -> OSError:
    number = ctypes.get_last_error()  # type: ignore[attr-defined]
    if number == _LOCKED:
        return BlockingIOError(errno.EAGAIN, "another process has locked it")
    return OSError(0, f"{what} failed with Windows error {number}")


def lock_file(fd: int) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError if another process has locked it, or OSError.

    `msvcrt.locking` cannot do this: it reads the position as a number of 32 bits.
    """
    import msvcrt  # exists only there

    place = _Overlapped(offset=_BEYOND_THE_END & 0xFFFFFFFF, offset_high=_BEYOND_THE_END >> 32)
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(fd))  # type: ignore[attr-defined]
    if not _kernel().LockFileEx(handle, _EXCLUSIVE | _AT_ONCE, 0, 1, 0, ctypes.byref(place)):
        raise _failed("LockFileEx")


@contextmanager
def one_at_a_time(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Run the block in one process at a time per folder. Raises OSError."""
    kernel = _kernel()
    # The name of a mutex must not hold the separators of a path. Its length is limited, too.
    digest = hashlib.sha256(os.path.normcase(os.path.realpath(folder)).encode("utf-8", "surrogatepass")).hexdigest()
    mutex = kernel.CreateMutexW(None, 0, f"Local\\quantreg-{digest}")
    if not mutex:
        raise _failed("CreateMutexW")
    handle = ctypes.c_void_p(mutex)
    try:
        kernel.WaitForSingleObject(handle, _FOREVER)  # a process that died with the mutex lets the next one have it
        try:
            yield
        finally:
            kernel.ReleaseMutex(handle)
    finally:
        kernel.CloseHandle(handle)
