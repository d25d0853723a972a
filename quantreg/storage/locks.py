"""Keep other processes and signals out while files are renamed."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["lock_file", "one_at_a_time", "signals_held"]


@contextmanager
def one_at_a_time(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Run the block in one process at a time per folder."""
    try:
        import fcntl
    except ImportError:
        from quantreg.storage import windows

        with windows.one_at_a_time(folder):
            yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot lock folders
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def signals_held() -> Iterator[None]:
    """Deliver Ctrl-C, SIGTERM, SIGHUP and Windows' SIGBREAK after the block instead of during it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs signal handlers only in the main thread
        return
    waiting: list[int] = []
    handlers = {}
    named = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"))
    for number in {number for number in named if number is not None}:
        if signal.getsignal(number) is not None:  # None: Python did not install this handler and cannot restore it
            handlers[number] = signal.signal(number, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)


def lock_file(fd: int) -> None:
    """Lock an open file until it is closed. Raises OSError if another process has locked it."""
    try:
        import fcntl
    except ImportError:
        from quantreg.storage import windows

        windows.lock_file(fd)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
