"""What differs between operating systems: reading and writing at a position, and disk space."""

import os
import threading
from pathlib import Path

__all__ = ["BINARY", "PositionedFile", "allocated_bytes", "free_bytes"]

# Flags for os.open: no translation of line ends (Windows), and closed in child processes (elsewhere).
BINARY: int = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class PositionedFile:
    """Reads and writes at positions of an open file, from several threads at once.

    Where the system has no pread and pwrite (Windows), a lock keeps the threads from moving each other's position.
    Does not close the descriptor.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._lock = threading.Lock()

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of data at offset. Raises OSError."""
        while data:
            count = self._write(data, offset)
            data = data[count:]
            offset += count

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from offset on; returns how many bytes there were. Raises OSError."""
        done = 0
        while done < len(buffer):
            count = self._read(buffer[done:], offset + done)
            if count == 0:
                break
            done += count
        return done

    def _write(self, data, offset):
        if hasattr(os, "pwrite"):
            return os.pwrite(self.fd, data, offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.write(self.fd, data)

    def _read(self, buffer, offset):
        if hasattr(os, "preadv"):
            return os.preadv(self.fd, [buffer], offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            data = os.read(self.fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes that are free on the disk of a folder."""
    import shutil  # slow to load, and few processes write

    return shutil.disk_usage(folder).free


def allocated_bytes(path: str | Path) -> int:
    """Bytes of the disk that a file takes already; 0 if there is no such file or the system does not tell."""
    try:
        return getattr(os.stat(path), "st_blocks", 0) * 512
    except OSError:
        return 0
