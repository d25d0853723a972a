"""Work items that several threads or processes do at a time, and whose results come in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from quantreg.errors import QuantregError

__all__ = ["in_order"]


def in_order(
    items: Iterable[Any], submit: Callable[[Any], "Future[Any] | None"], threads: int, *, twice: bool = False
) -> Generator[tuple[Any, Any], None, None]:
    """Yield (item, result) in order; ``submit(item)`` returns a Future, or None if there is nothing to do.

    Submits up to three items per thread ahead. When it is closed, it cancels what has not started. With ``twice``,
    an item that fails is submitted once more: a cluster that loses a worker may fail the results it held.
    """
    waiting: deque[tuple[Any, Future[Any] | None]] = deque()

    def finish() -> tuple[Any, Any]:
        item, future = waiting.popleft()
        try:
            return item, None if future is None else future.result()
        except (QuantregError, BrokenExecutor):
            raise
        except Exception as error:
            again = submit(item) if twice else None
            if again is None:
                raise
            try:
                return item, again.result()
            except QuantregError:
                raise  # the work itself fails, and says why
            except Exception as second:
                raise second from error

    try:
        for item in items:
            waiting.append((item, submit(item)))
            if len(waiting) >= 3 * threads:
                yield finish()
        while waiting:
            yield finish()
    except BrokenExecutor as error:
        raise QuantregError(
            f"a worker of the executor died ({error}): run the job again without an executor (without --processes), "
            "to see what ends it"
        ) from error
    finally:
        for _, future in waiting:
            if future is not None:
                future.cancel()
