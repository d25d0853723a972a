"""A pool of worker processes, so that a codec in Python, which holds the GIL, uses all processors."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context, parent_process

from quantreg.dispatch import cpu_count

__all__ = ["usual_pool", "worker_processes"]

FEW = 4  # processors, below which threads serve as well
MOST = 60  # processes: Windows waits for no more than 61


@contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of this many processes, to pass as ``executor=``. They end with the block, and with this process.

    The processes start afresh ("spawn"): a fork would copy locks that threads of this process hold.
    """
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin) as pool:
        yield pool


@contextmanager
def usual_pool() -> Iterator[ProcessPoolExecutor | None]:
    """Yield a pool for work in NumPy, in calls so short that threads mostly wait for Python's lock.

    It is None, for threads, where there are few processors, or the system has no locks between processes.
    """
    with ExitStack() as stack:
        pool, count = None, cpu_count()
        if count >= FEW:
            with suppress(ImportError, NotImplementedError, OSError):
                pool = stack.enter_context(worker_processes(min(count, MOST)))
        yield pool


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
