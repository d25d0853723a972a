"""PartialFile: a file that is written in pieces to ``OUT.partial`` and can be continued by another process."""

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quantreg.errors import OutputError
from quantreg.storage import system
from quantreg.storage.atomic import AtomicFile, bytes_of
from quantreg.storage.digest import digest_of, new_digest
from quantreg.storage.locks import lock_file
from quantreg.storage.system import BINARY, PositionedFile, allocated_bytes, usable
from quantreg.storage.temporary import remove_dead

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray
    from typing_extensions import Buffer

__all__ = ["PartialFile", "journal_path", "partial_path"]

_VERSION = 1
_CHUNK = 1 << 22  # bytes read at a time to check a piece


def partial_path(path: str | os.PathLike[str]) -> str:
    """Return the path of the unfinished file."""
    return usable(os.path.realpath(path)) + ".partial"


def journal_path(path: str | os.PathLike[str]) -> str:
    """Return the path of the journal, a file of JSON lines.

    The first line says what the output is made from. Each further line describes one piece: [tensor, offset, length,
    16-byte BLAKE2b digest in hex].
    """
    return partial_path(path) + ".journal"


class PartialFile(AtomicFile):
    """Like `AtomicFile`, but keeps what was written when the block raises an exception or the process is killed.

    - ``identity``: a JSON-ready mapping of everything that the bytes depend on.
    - ``resume``: continue an unfinished file that has the same identity. Pieces whose bytes match the journal need not
      be written again (see `has`). Without it, an unfinished file raises OutputError, or is started over with
      ``force``.
    - ``size``: the number of bytes of the finished file. Required here.

    The partial file is locked, so only one process writes it at a time. Call `finish` when this file and all files
    that belong to it have their names.
    """

    size: int

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        identity: Mapping[str, Any],
        *,
        size: int,
        resume: bool = False,
        force: bool = False,
        source: str | bytes | os.PathLike[str] | Iterable[str | bytes | os.PathLike[str]] | None = None,
    ) -> None:
        super().__init__(path, force=force, size=size, source=source)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.resume = resume
        self._temporary = self._shown = Path(partial_path(self.path))
        self._journal_path = Path(journal_path(self.path))
        self._journal = -1
        # Ranges of bytes whose digests match the journal: sorted, and merged where they touch.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._complete = False  # this file already has its name, but a file that belongs to it does not
        self._recorded = 0

    def has(self, offset: int, length: int) -> bool:
        """Whether an earlier run wrote these bytes and they still match their digest."""
        i = bisect_right(self._starts, offset) - 1
        return i >= 0 and offset + length <= self._ends[i]

    def __enter__(self) -> "Self":
        with self._errors():
            remove_dead(self.path.parent)
            journal = self._read_journal()
            if journal and self.resume and self.path.exists() and not self._temporary.exists():
                self._complete = True
                self._fd = os.open(self.path, os.O_RDONLY | BINARY)
            else:
                self._old = self._check_target()
                self._open_and_lock()
                journal = self._read_journal()  # again: another run may have ended before the file was locked
            try:
                if journal:
                    self._check_identity(journal)
                    if self.resume:
                        self._verify(journal[1:])
                if not self._complete:
                    self._begin()
            except BaseException:
                if not journal:
                    self._forget()
                self._close()
                raise
        return self

    def pwrite(self, data: "Buffer | NDArray[Any]", offset: int, label: str | None = None) -> None:
        """Write as `AtomicFile.pwrite` does; with a ``label`` (the tensor's name) record the piece in the journal."""
        if self._complete:
            if label is not None:
                raise OutputError(
                    f"{self.path}: exists, but its bytes do not match the journal {self._journal_path}: remove both to "
                    "start over"
                )
            return
        super().pwrite(data, offset)
        if label is not None:
            view = bytes_of(data)
            line = json.dumps([label, offset, len(view), digest_of(view)]) + "\n"
            with self._errors():
                os.write(self._journal, line.encode())  # one call in append mode: lines of several threads do not mix
            self._recorded += 1

    def settle(self) -> None:
        """Do everything that can fail before the rename, unless the file already has its name."""
        if not self._complete:
            super().settle()

    def retire(self) -> None:
        """Remove the old file at ``path``, unless it is the finished file."""
        if not self._complete:
            super().retire()

    def finish(self) -> None:
        """Remove the journal."""
        with suppress(FileNotFoundError):
            os.unlink(self._journal_path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._complete:
                with self._errors():
                    self._commit()
            elif not (self._recorded or self._starts or self._complete) and self._fd >= 0:
                self._forget()
        finally:
            self._close()

    def _forget(self) -> None:
        """Remove a partial file and a journal that hold nothing worth keeping. The caller holds the lock."""
        if not system.OPEN_FILES_MOVE:
            self._close()  # and with it the lock: a run that takes it at this moment keeps its files
        for path in (self._temporary, self._journal_path):
            with suppress(FileNotFoundError) if system.OPEN_FILES_MOVE else suppress(OSError):
                os.unlink(path)

    def _close(self) -> None:
        for fd in (self._fd, self._journal):
            if fd >= 0:
                os.close(fd)
        self._fd = self._journal = -1

    # ---- opening ----

    def _open_and_lock(self) -> None:
        while True:
            self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
            try:
                lock_file(self._fd)
            except OSError:
                self._close()
                raise OutputError(f"{self._temporary}: another run is writing it: wait for it or stop it") from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._fd), os.stat(self._temporary)):
                    self._file = PositionedFile(self._fd)
                    return
            self._close()  # another run has ended in the meantime and renamed this file

    def _read_journal(self) -> list[Any]:
        """Return the lines of the journal as parsed JSON, up to the first damaged one."""
        lines: list[Any] = []
        with suppress(FileNotFoundError), open(self._journal_path, "rb") as file:
            for raw in file:
                try:
                    lines.append(json.loads(raw) if raw.endswith(b"\n") else None)
                except (ValueError, RecursionError):
                    lines.append(None)
                if lines[-1] is None:
                    lines.pop()
                    break
        return lines

    def _check_identity(self, journal: list[Any]) -> None:
        if not self.resume and not self.force:
            raise OutputError(
                f"{self._temporary}: holds an unfinished run: go on with resume (--resume), or start over with force "
                "(--force)"
            )
        if not self.resume:
            return
        begun = journal[0] if isinstance(journal[0], dict) else {}
        if begun.get("quantreg_journal") != _VERSION:
            raise OutputError(
                f"{self._journal_path}: is not a journal that this version of quantreg reads: remove it to start over"
            )
        for key in sorted({*begun, *self.identity} - {"quantreg_journal"}):
            if begun.get(key) != self.identity.get(key):
                plugin = key.startswith("plugin ")
                way = "install it as it was then" if plugin else "repeat the command with which it was begun"
                raise OutputError(
                    f"{self._temporary}: was begun with another {'version of ' if plugin else ''}{key} "
                    f"({begun.get(key)!r:.60} then, {self.identity.get(key)!r:.60} now): {way}, or remove it and "
                    f"{self._journal_path.name} to start over"
                )

    def _verify(self, lines: list[Any]) -> None:
        """Find the pieces of the journal whose bytes are in the file and match their digests."""
        found = []
        for line in lines:
            match line:
                case [str(), int(offset), int(length), str(digest)] if offset >= 0 and 0 < length <= self.size:
                    if offset + length <= self.size and self._digest_of(offset, length) == digest:
                        found.append((offset, offset + length))
        for start, end in sorted(found):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._starts.append(start)
                self._ends.append(end)

    def _digest_of(self, offset: int, length: int) -> str | None:
        """Return the digest of a range of the file, or None if the file ends before the range does."""
        found = new_digest()
        os.lseek(self._fd, offset, os.SEEK_SET)
        while length:
            data = os.read(self._fd, min(length, _CHUNK))
            if not data:
                return None
            found.update(data)
            length -= len(data)
        return str(found.hexdigest())

    def _begin(self) -> None:
        if not self._starts:
            os.ftruncate(self._fd, 0)
        self._check_space(self.size, allocated_bytes(self._temporary))
        os.ftruncate(self._fd, min(os.fstat(self._fd).st_size, self.size))
        if self._old and hasattr(os, "fchmod"):
            os.fchmod(self._fd, self._old.st_mode & 0o7777)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | BINARY | (0 if self._starts else os.O_TRUNC)
        self._journal = os.open(self._journal_path, flags, 0o666)
        if self._starts:
            os.truncate(self._journal_path, self._whole_lines())
        else:
            os.write(self._journal, (json.dumps({"quantreg_journal": _VERSION} | self.identity) + "\n").encode())

    def _whole_lines(self) -> int:
        """Return the length of the journal up to its last line end, so that a new line does not join a cut-off one."""
        with open(self._journal_path, "rb") as file:
            raw = file.read()
        return raw.rfind(b"\n") + 1
