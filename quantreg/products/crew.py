"""Threads that wait for work: starting one takes longer than a product with one row of activations."""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["run"]


class _Helper:
    """A thread that runs one function at a time. It ends with the process."""

    def __init__(self) -> None:
        self._start, self._done = threading.Lock(), threading.Lock()
        self._start.acquire()
        self._done.acquire()
        self._work: Callable[[], None] | None = None
        threading.Thread(target=self._loop, name="quantreg-matmul", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._start.acquire()
            work, self._work = self._work, None
            assert work is not None
            work()
            del work  # a thread that waits must not keep arrays alive
            self._done.release()

    def begin(self, work: Callable[[], None]) -> None:
        self._work = work
        self._start.release()

    def wait(self) -> None:
        self._done.acquire()


_idle: "deque[_Helper]" = deque()


def run(work: Callable[[Any], None], items: Sequence[Any], threads: int) -> None:
    """Call work(item) for each of the items, in up to so many threads. Raise the first error, after all have ended."""
    threads = min(threads, len(items))
    if threads <= 1:
        for item in items:
            work(item)
        return
    left = deque(items)
    errors: list[BaseException] = []

    def take() -> None:
        while not errors:
            try:
                item = left.popleft()
            except IndexError:
                return
            try:
                work(item)
            except BaseException as error:  # also KeyboardInterrupt: it ends the other threads too
                errors.append(error)

    helpers = []
    for _ in range(threads - 1):
        try:
            helper = _idle.pop()
        except IndexError:
            helper = _Helper()
        helper.begin(take)
        helpers.append(helper)
    take()
    for helper in helpers:
        helper.wait()
        _idle.append(helper)
    if errors:
        raise errors[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a child process has none of these threads
