"""What differs between operating systems: reading and writing at a position, open files, and disk space."""

import os
import sys
import threading

__all__ = [
    "BINARY",
    "OPEN_FILES_MOVE",
    "PositionedFile",
    "allocated_bytes",
    "free_bytes",
    "sync",
    "sync_folder",
    "usable",
]

# Flags for os.open: on Windows do not translate line ends, elsewhere close the file in child processes.
BINARY: int = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


# Whether an open file can be renamed, replaced and removed. Windows refuses.
OPEN_FILES_MOVE: bool = os.name != "nt"

_LONG = 240  # of the 260 characters that Windows allows in a path, a file's temporary names need some


class PositionedFile:
    """Reads and writes at given positions of an open file, from several threads at once.

    Where the system has no pread and pwrite (Windows), a lock keeps one thread from moving the position that another
    thread has just set. The caller closes the descriptor.
    """

    def __init__(self, fd: int) -> None:
        self.fd: int = fd
        self._lock = threading.Lock()

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of data at offset. Raises OSError."""
        while data:
            count = self._write(data, offset)
            data = data[count:]
            offset += count

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from offset on; return how many bytes were read, fewer if the file ends. Raises OSError."""
        done = 0
        while done < len(buffer):
            count = self._read(buffer[done:], offset + done)
            if count == 0:
                break
            done += count
        return done

    def _write(self, data: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.fd, data, offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            return os.write(self.fd, data)

    def _read(self, buffer: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.fd, [buffer], offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            data = os.read(self.fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def usable(path: str) -> str:
    """Return the path in a form that the system takes at any length: Windows wants a prefix before long paths."""
    if OPEN_FILES_MOVE or len(path) < _LONG or path.startswith("\\\\?\\"):
        return path
    return "\\\\?\\UNC" + path[1:] if path.startswith("\\\\") else "\\\\?\\" + path


def sync(fd: int) -> None:
    """Write a file to the disk itself. On macOS, fsync leaves it in the memory of the disk. Raises OSError."""
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError:  # network disks cannot
            pass
    os.fsync(fd)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Write the names of files in a folder to the disk, where the system can open folders. Raises OSError."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Return how many bytes are free on the disk that holds the folder."""
    import shutil  # slow to load, and few processes write

    return shutil.disk_usage(folder).free


def allocated_bytes(path: str | os.PathLike[str]) -> int:
    """Return how many bytes of the disk a file already takes, or 0 if it does not exist or the system cannot tell."""
    try:
        return getattr(os.stat(path), "st_blocks", 0) * 512
    except OSError:
        return 0
