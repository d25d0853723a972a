"""Events of work that reports by calling back, as an iterator."""

from collections.abc import Callable, Generator
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any, TypeVar

__all__ = ["told"]

T = TypeVar("T")


class _StoppedError(Exception):
    """Nobody listens any more."""


def told(work: "Callable[[Callable[[Any], None]], T]") -> "Generator[Any, None, T]":
    """Run ``work(tell)`` in a thread, yield what it tells, and return what it returns.

    If the generator is closed, the work ends at its next call of ``tell``. Raises what the work raises.
    """
    queue: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    closed = Flag()

    def tell(event: Any) -> None:
        if closed.is_set():
            raise _StoppedError
        queue.put(("event", event))

    def run() -> None:
        try:
            queue.put(("result", work(tell)))
        except BaseException as error:
            queue.put(("error", error))

    thread = Thread(target=run, name="quantreg-told", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = queue.get()
            if kind == "error":
                raise value
            if kind == "result":
                return value
            yield value
    finally:
        closed.set()
        thread.join()
