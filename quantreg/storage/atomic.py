"""AtomicFile: a file that appears under its name only when it is complete."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quantreg.errors import OutputError
from quantreg.storage import system
from quantreg.storage.system import PositionedFile, free_bytes, sync, sync_folder, usable
from quantreg.storage.temporary import new_file, remove_dead

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray
    from typing_extensions import Buffer

__all__ = ["AtomicFile"]

_FLUSH = 1 << 18  # the system is told to start writing pieces of this many bytes or more to the disk at once

_ADVICE = {
    errno.ENOENT: "create its folder first",
    errno.ENOTDIR: "choose a path whose parent is a folder",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some space, or choose a folder on another disk",
    errno.EFBIG: "choose a disk and limits that allow a file of this size",
}


def bytes_of(data: Any) -> memoryview:
    """View a contiguous buffer as bytes. (Type checkers know arrays as buffers only from Python 3.12 on.)"""
    return memoryview(data).cast("B")


class AtomicFile:
    """Context manager that writes a file which appears at ``path`` only when it is complete.

    The data goes to a temporary file in the same folder, which replaces ``path`` when the block ends without an
    exception. Until then ``path`` keeps its old content. After an exception, KeyboardInterrupt included, the temporary
    file is removed. To have SIGTERM covered too, install a handler that raises an exception. What a killed process left
    is removed by the next one that writes to the folder.

    - ``force``: replace an existing file, and keep its mode.
    - ``size``: the number of bytes that will be written. It is compared with the free disk space on entry and with the
      file at the end.
    - ``source``: a path, or several, that must not be the same file as ``path``.

    When blocks are nested, the outermost file is renamed last, so open the first of several shards first.

    Raises OutputError, on entry wherever the problem can be known by then.
    """

    path: Path
    force: bool
    size: int | None
    sources: list[str | bytes | os.PathLike[str]]
    _file: PositionedFile

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        *,
        force: bool = False,
        size: int | None = None,
        source: str | bytes | os.PathLike[str] | Iterable[str | bytes | os.PathLike[str]] | None = None,
    ) -> None:
        path = os.fsdecode(path)
        if path == "-":
            raise OutputError(
                "-: standard output is not supported, because a file is written at many places and checked before it "
                "appears: give the name of a file (./- for one with this name)"
            )
        # A link stays a link: the file that it points to is replaced, in the folder of that file.
        self.path = Path(usable(os.path.realpath(path)))
        self._given = os.path.abspath(path)  # if /dev/stdout is a pipe, realpath gives a name that does not exist
        self.force = force
        self.size = size
        self.sources = (
            [] if source is None else [source] if isinstance(source, (str, bytes, os.PathLike)) else list(source)
        )
        self._temporary = Path()
        self._shown = self.path  # the name in messages
        self._fd = -1
        self._position = 0

    def __enter__(self) -> "Self":
        with self._errors():
            remove_dead(self.path.parent)  # it may take the space that this file needs
            old = self._check_target()
            if self.size is not None:
                self._check_space(self.size)
            self._temporary, self._fd = new_file(self.path.parent)
            self._file = PositionedFile(self._fd)
            try:
                if old and hasattr(os, "fchmod"):
                    # Now, not at the end: others must never be able to read what replaces a private file.
                    os.fchmod(self._fd, stat.S_IMODE(old.st_mode))
            except BaseException:
                self._discard()
                raise
        return self

    def write(self, data: "Buffer | NDArray[Any]") -> None:
        """Append the bytes of a contiguous buffer after those of the last `write`. Raises OutputError."""
        view = bytes_of(data)
        with self._errors():
            self._file.write(view, self._position)
        self._position += len(view)

    def check(self) -> None:
        """Raise OutputError now if ``path`` must not be replaced, before work that may take long."""
        with self._errors():
            self._check_target()

    def has(self, offset: int, length: int) -> bool:
        """Whether these bytes were already written by an earlier run. Always False here; see `PartialFile`."""
        return False

    def finish(self) -> None:
        """Clean up after all files that belong together have their names. Does nothing here; see `PartialFile`."""

    def pwrite(self, data: "Buffer | NDArray[Any]", offset: int, label: str | None = None) -> None:
        """Write the bytes of a contiguous buffer at ``offset``, from any thread. Raises OutputError.

        Does not move the position of `write`. Only `PartialFile` uses ``label``.
        """
        view = bytes_of(data)
        with self._errors():
            self._file.write(view, offset)
            if len(view) >= _FLUSH and hasattr(os, "posix_fadvise"):
                # Let the disk work while more is being encoded, instead of leaving everything to the final fsync.
                os.posix_fadvise(self._fd, offset, len(view), os.POSIX_FADV_DONTNEED)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._errors():
                    self._commit()
        finally:
            self._discard()

    def settle(self) -> None:
        """Do everything that can fail before the rename: check the size, sync to disk, check ``path`` again."""
        with self._errors():
            written = os.fstat(self._fd).st_size
            if self.size is not None and written != self.size:
                raise OutputError(
                    f"{self.path}: {written} bytes were written, but {self.size} were planned: the file was "
                    "discarded; please report this as a bug"
                )
            sync(self._fd)
            self._check_target()

    def retire(self) -> None:
        """Remove the old file at ``path``, if there is one.

        Used for the first of several shards: without it, nobody can open a mix of old and new shards.
        """
        with self._errors(), self._replacing(), suppress(FileNotFoundError):
            os.unlink(self.path)

    def _commit(self) -> None:
        self.settle()
        if not system.OPEN_FILES_MOVE:  # elsewhere a lock on the file must last until then
            os.close(self._fd)
            self._fd = -1
        with self._replacing():
            os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)

    def _check_target(self) -> os.stat_result | None:
        """Return the stat of the file that will be replaced, or None. Raises OutputError if it must not be replaced."""
        try:
            old = os.stat(self._given)
        except FileNotFoundError:
            return None
        for source in self.sources:
            if os.path.exists(source) and os.path.samestat(old, os.stat(source)):
                raise OutputError(f"{self.path}: is the input: choose another name")
        if not stat.S_ISREG(old.st_mode):
            what = "a folder" if stat.S_ISDIR(old.st_mode) else "a pipe or device"
            raise OutputError(f"{self.path}: exists and is {what}, not a regular file: give the name of a file")
        if not self.force:
            raise OutputError(f"{self.path}: exists: choose another name, or replace it with force (--force)")
        return old

    def _check_space(self, size: int, allocated: int = 0) -> None:
        free = free_bytes(self.path.parent)
        if free + allocated < size:
            raise OutputError(
                f"{self.path}: needs {size - allocated} bytes of disk space, but only {free} are free in "
                f"{self.path.parent}: free some space, or choose a folder on another disk"
            )

    def _discard(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)

    @contextmanager
    def _replacing(self) -> Iterator[None]:
        """Say what to do where the system does not let an old file go that a program has open."""
        try:
            yield
        except PermissionError as error:
            if system.OPEN_FILES_MOVE or not self.path.exists():
                raise
            raise OutputError(
                f"{self._shown}: cannot be written: a program has the file {self.path} open: close the program, or in "
                "Python the File, Model or QuantizedTensor that maps it, or choose another name"
            ) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "check the folder and its disk")
            raise OutputError(f"{self._shown}: cannot be written: {error.strerror or error}: {advice}") from error
