"""A file that appears under its name only when it is complete."""

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path

from quantreg.errors import OutputError
from quantreg.storage.system import BINARY, PositionedFile, free_bytes

__all__ = ["AtomicFile"]

_FLUSH = 1 << 18  # bytes: the system is told to begin writing pieces of this size and larger to the disk


class AtomicFile:
    """Context manager: writes a temporary file beside `path` and renames it to `path` when the block ends well.

    Until then `path` keeps what it held; after an exception, KeyboardInterrupt included, the temporary file is
    removed (turn SIGTERM into an exception to have it covered). `force` allows to replace a file, whose mode is kept;
    `size` is the number of bytes that will be written: checked against the free space first and against the result at
    the end; `source` is one path or several that must not be the same file as `path`. Of nested blocks the outermost
    renames last: open the first of several shards first.

    Raises OutputError, on entering for what can be known then.
    """

    def __init__(self, path, *, force: bool = False, size: int | None = None, source=None):
        # A link keeps pointing to its file: the file is replaced, in its own folder.
        self.path = Path(os.path.realpath(path))
        self.force = force
        self.size = size
        self.sources = [] if source is None else [source] if isinstance(source, (str, os.PathLike)) else list(source)
        self._temporary = self.path.parent / f".quantreg-{os.urandom(8).hex()}.tmp"
        self._fd = -1
        self._position = 0

    def __enter__(self):
        with self._errors():
            old = self._check_target()
            if self.size is not None:
                free = free_bytes(self.path.parent)
                if free < self.size:
                    raise OutputError(
                        f"{self.path}: takes {self.size} bytes, only {free} are free in {self.path.parent}"
                    )
            self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
            self._file = PositionedFile(self._fd)
            try:
                if old and hasattr(os, "fchmod"):
                    # At once, not at the end: what replaces a private file is never readable by others.
                    os.fchmod(self._fd, stat.S_IMODE(old.st_mode))
            except BaseException:
                self._discard()
                raise
        return self

    def write(self, data) -> None:
        """Append bytes at the current position; any contiguous buffer will do."""
        view = memoryview(data).cast("B")
        with self._errors():
            self._file.write(view, self._position)
        self._position += len(view)

    def has(self, offset: int, length: int) -> bool:
        """Whether these bytes are there already: never, here (see `PartialFile`)."""
        return False

    def finish(self) -> None:
        """Called when all files that belong together stand under their names."""

    def pwrite(self, data, offset: int, label: str | None = None) -> None:
        """Write bytes at `offset`, from any thread; the position of `write` does not move.

        ``label`` is for `PartialFile`.
        """
        view = memoryview(data).cast("B")
        with self._errors():
            self._file.write(view, offset)
            if len(view) >= _FLUSH and hasattr(os, "posix_fadvise"):
                # The disk starts to write now, while more is being encoded, and not only at the final fsync.
                os.posix_fadvise(self._fd, offset, len(view), os.POSIX_FADV_DONTNEED)

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                with self._errors():
                    self._commit()
        finally:
            self._discard()

    def settle(self) -> None:
        """All that can fail before the file gets its name: its size, the disk, what stands under its name."""
        with self._errors():
            written = os.fstat(self._fd).st_size
            if self.size is not None and written != self.size:
                raise OutputError(f"{self.path}: {written} bytes were written, {self.size} were planned")
            os.fsync(self._fd)
            self._check_target()

    def retire(self) -> None:
        """Remove the file that will be replaced. Of several shards the first: old and new ones make no model."""
        with self._errors(), suppress(FileNotFoundError):
            os.unlink(self.path)

    def _commit(self):
        self.settle()
        if os.name == "nt":  # cannot rename an open file; elsewhere a lock on it must last until then
            os.close(self._fd)
            self._fd = -1
        os.replace(self._temporary, self.path)
        if os.name == "posix":
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _check_target(self):
        """stat of the file that will be replaced, or None."""
        try:
            old = os.stat(self.path)
        except FileNotFoundError:
            return None
        for source in self.sources:
            if os.path.exists(source) and os.path.samestat(old, os.stat(source)):
                raise OutputError(f"{self.path}: is the input, choose another name")
        if not stat.S_ISREG(old.st_mode):
            raise OutputError(f"{self.path}: exists and is not a regular file")
        if not self.force:
            raise OutputError(f"{self.path}: exists: choose another name, or replace it with force (--force)")
        return old

    def _discard(self):
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)

    @contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error
