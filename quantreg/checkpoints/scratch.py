"""Tensors that are made once and then mapped, so that a model that is read from its checkpoint takes no more memory."""

import mmap
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scratch"]


class Scratch:
    """A temporary file without a name, which keeps tensors that were made once, and which is mapped.

    Memory that is mapped from a file can be given back at any time, so a model takes no more of it than in GGUF.
    """

    CHUNK = 1 << 22

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._lock = threading.Lock()
        self._end = 0

    def keep(self, nbytes: int, fill: "Callable[[int, NDArray[np.uint8]], None]") -> "NDArray[np.uint8]":
        """Write ``nbytes`` bytes and return them, mapped. ``fill(offset, buffer)`` makes some of them.

        Raises OSError if there is no space for them.
        """
        page = mmap.ALLOCATIONGRANULARITY
        with self._lock:
            if self._file.closed or not nbytes:  # a tensor that outlives its model is made in memory
                out = np.empty(nbytes, np.uint8)
                fill(0, out)
                return out
            start = -(-self._end // page) * page
            buffer = np.empty(min(nbytes, self.CHUNK), np.uint8)
            self._file.seek(start)
            for offset in range(0, nbytes, self.CHUNK):
                part = buffer[: nbytes - offset]
                fill(offset, part)
                self._file.write(part.data)
            self._file.flush()
            self._end = start + nbytes
            mapped = mmap.mmap(self._file.fileno(), nbytes, access=mmap.ACCESS_READ, offset=start)
        return np.frombuffer(mapped, np.uint8)  # which keeps the mapping

    def close(self) -> None:
        """Let go of the file. Tensors that are in use stay."""
        with self._lock:  # another thread may be writing a tensor
            self._file.close()
