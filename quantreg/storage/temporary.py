"""Temporary files and folders beside an output, and the removal of those that a killed run has left.

A run holds a lock on each of its own, which the system releases when the process ends, by a kill too. So one whose lock
is free has no owner, and the next run that writes to the folder removes it. Its name says on which machine it was made:
some network disks do not pass locks on to others.
"""

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from quantreg.storage import system
from quantreg.storage.locks import lock_file
from quantreg.storage.system import BINARY

__all__ = ["new_file", "new_folder", "remove_dead", "temporary_folder"]

# Where an open file cannot be renamed, a run gives up the lock before it renames its file. There, only files that
# nothing was written to for so many seconds count as left.
_DAY = 86_400


def new_file(folder: str | os.PathLike[str]) -> tuple[Path, int]:
    """Make a temporary file and lock it; return its path and descriptor. Raises OSError."""
    while True:
        path = Path(folder, _prefix() + os.urandom(8).hex() + ".tmp")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        if _hold(fd, path):
            return path, fd
        os.close(fd)


def new_folder(folder: str | os.PathLike[str], ending: str = ".tmp", mode: int = 0o700) -> tuple[Path, int]:
    """Make a temporary folder and lock it; return its path and descriptor, -1 on Windows. Raises OSError."""
    while True:
        path = Path(folder, _prefix() + os.urandom(8).hex() + ending)
        path.mkdir(mode)
        if os.name != "posix":
            return path, -1
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | BINARY)
            if _hold(fd, path):
                return path, fd
            os.close(fd)


@contextmanager
def temporary_folder(folder: str | os.PathLike[str], ending: str) -> Iterator[Path]:
    """Make a folder in a folder, and remove it after the block. Raises OSError."""
    remove_dead(folder)
    path, fd = new_folder(folder, ending)
    try:
        yield path
    finally:
        with suppress(OSError):
            shutil.rmtree(path)
        if fd >= 0:
            os.close(fd)


def remove_dead(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files and folders of runs on this machine that were killed. Raises nothing."""
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if entry.name.startswith(_prefix())]:
            with suppress(OSError):
                _remove_if_dead(Path(folder, name))


def _remove_if_dead(path: Path) -> None:
    """Remove one unless it has an owner. Raises OSError if that cannot be told."""
    there = os.lstat(path)
    mine = not hasattr(os, "getuid") or there.st_uid == os.getuid()
    is_folder = stat.S_ISDIR(there.st_mode)
    if not mine or not (is_folder or stat.S_ISREG(there.st_mode)):
        return
    if not system.OPEN_FILES_MOVE and there.st_mtime > time.time() - _DAY:
        return
    fd = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | getattr(os, "O_NOFOLLOW", 0) | BINARY)
    try:
        lock_file(fd)
        if is_folder:
            shutil.rmtree(path)
        elif system.OPEN_FILES_MOVE:  # with the lock, which keeps its owner from using it if it has just been made
            os.unlink(path)
    finally:
        os.close(fd)
    if not is_folder and not system.OPEN_FILES_MOVE:
        os.unlink(path)


def _hold(fd: int, path: Path) -> bool:
    """Lock what has just been made. False if another run took it for left before it was locked."""
    try:
        lock_file(fd)
    except BlockingIOError:
        return False
    except OSError:  # this disk has no locks: nobody can lock it, and nobody removes it
        return True
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


@cache
def _prefix() -> str:
    """How the names begin: with a digest of what tells this machine from others."""
    parts = [os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")]
    with suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text(encoding="ascii", errors="replace").strip())
    return f".quantreg-{hashlib.blake2b(repr(parts).encode(), digest_size=4).hexdigest()}-"
