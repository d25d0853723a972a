"""The threads of BLAS: one in each of ours."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]


@cache
def _blas() -> "ThreadpoolController":
    from threadpoolctl import ThreadpoolController  # slow to load, and reading a file does not need it

    return ThreadpoolController().select(user_api="blas")


_lock = threading.Lock()
_users = 0
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread per call, for as long as anybody is inside; its setting comes back after the last one.

    `matmul` enters it for each product that BLAS computes. A caller with many products enters it once around them all,
    and spares the others the work. It holds for the whole process.
    """
    global _users, _limit
    with _lock:
        if not _users:
            _limit = _blas().limit(limits=1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _limit.restore_original_limits()
