"""A file that is written in pieces and survives the process: `OUT.partial`, with a journal of the pieces beside it."""

import hashlib
import json
import os
from bisect import bisect_right
from contextlib import contextmanager, suppress

from quantreg.errors import OutputError
from quantreg.storage.atomic import AtomicFile
from quantreg.storage.locks import lock_file
from quantreg.storage.system import BINARY, PositionedFile, allocated_bytes, free_bytes

__all__ = ["PartialFile", "journal_path", "partial_path"]

VERSION = 1
READ = 1 << 22


def partial_path(path) -> str:
    """Where the unfinished file stands."""
    return os.path.realpath(path) + ".partial"


def journal_path(path) -> str:
    """Where the journal stands: a line of JSON that says what the file is made from, then one for each piece:
    [tensor, offset, length, BLAKE2b of 16 bytes in hex].
    """
    return partial_path(path) + ".journal"


class PartialFile(AtomicFile):
    """Like `AtomicFile`, but what was written stays when the block ends with an exception or the process is killed.

    ``identity`` is a JSON-ready dict of all that the bytes depend on. With ``resume`` an unfinished file of the same
    identity is continued: pieces whose bytes are as the journal says need not be written again (`has`). Without it an
    unfinished file is refused, or started over with ``force``. One process at a time: the partial file is locked.
    Call `finish` when this and all files that belong to it stand under their names.
    """

    def __init__(self, path, identity: dict, *, resume: bool = False, **keywords):
        super().__init__(path, **keywords)
        self.identity = json.loads(json.dumps(identity))
        self.resume = resume
        self._temporary = type(self.path)(partial_path(self.path))
        self._journal_path = type(self.path)(journal_path(self.path))
        self._journal = -1
        self._starts, self._ends = [], []  # verified ranges, sorted and apart
        self._complete = False  # the file stands under its name already, only others that belong to it do not
        self._recorded = 0

    def has(self, offset: int, length: int) -> bool:
        """Whether these bytes are there already, with the checksum that they had when they were written."""
        i = bisect_right(self._starts, offset) - 1
        return i >= 0 and offset + length <= self._ends[i]

    def __enter__(self):
        with self._errors():
            journal = self._read_journal()
            if journal and self.resume and self.path.exists() and not self._temporary.exists():
                self._complete = True
                self._fd = os.open(self.path, os.O_RDONLY | BINARY)
            else:
                self._old = self._check_target()
                self._open_and_lock()
                journal = self._read_journal()  # another run may have ended between
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

    def pwrite(self, data, offset: int, label: str | None = None) -> None:
        """As in AtomicFile; with a ``label`` (the tensor) the piece is noted in the journal."""
        if self._complete:
            if label is not None:
                raise OutputError(f"{self.path}: exists, and is not what the journal {self._journal_path} says")
            return
        super().pwrite(data, offset)
        if label is not None:
            view = memoryview(data).cast("B")
            line = json.dumps([label, offset, len(view), _digest(view)]) + "\n"
            with self._errors():
                os.write(self._journal, line.encode())  # one call to a file opened to append: never mixed with others
            self._recorded += 1

    def settle(self) -> None:
        if not self._complete:
            super().settle()

    def retire(self) -> None:
        if not self._complete:
            super().retire()

    def finish(self) -> None:
        """Forget the journal."""
        with suppress(FileNotFoundError):
            os.unlink(self._journal_path)

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None and not self._complete:
                with self._errors():
                    self._commit()
            elif not (self._recorded or self._starts or self._complete) and self._fd >= 0:
                self._forget()
        finally:
            self._close()

    def _forget(self):
        """Remove what holds nothing worth keeping; the lock is ours."""
        for path in (self._temporary, self._journal_path):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _close(self):
        for fd in (self._fd, self._journal):
            if fd >= 0:
                os.close(fd)
        self._fd = self._journal = -1

    # ---- opening ----

    def _open_and_lock(self):
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
            self._close()  # a run that ended meanwhile has renamed it

    def _read_journal(self):
        """Its lines as parsed JSON, up to the first that is damaged."""
        lines = []
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

    def _check_identity(self, journal):
        if not self.resume and not self.force:
            raise OutputError(
                f"{self._temporary}: an unfinished run is here: go on with resume (--resume), or start over with force "
                f"(--force)"
            )
        if not self.resume:
            return
        begun = journal[0] if isinstance(journal[0], dict) else {}
        if begun.get("quantreg_journal") != VERSION:
            raise OutputError(f"{self._journal_path}: is no journal that this quantreg reads: remove it to start over")
        for key in sorted({*begun, *self.identity} - {"quantreg_journal"}):
            if begun.get(key) != self.identity.get(key):
                raise OutputError(
                    f"{self._temporary}: was begun with another {key} ({begun.get(key)!r:.60} then, "
                    f"{self.identity.get(key)!r:.60} now): run it as it was begun, or remove it and "
                    f"{self._journal_path.name} to start over"
                )

    def _verify(self, lines):
        """Find which of the journal's pieces are there with the right checksum."""
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

    def _digest_of(self, offset, length):
        digest = hashlib.blake2b(digest_size=16)
        os.lseek(self._fd, offset, os.SEEK_SET)
        while length:
            data = os.read(self._fd, min(length, READ))
            if not data:
                return None
            digest.update(data)
            length -= len(data)
        return digest.hexdigest()

    def _begin(self):
        if not self._starts:
            os.ftruncate(self._fd, 0)
        have = allocated_bytes(self._temporary)
        free = free_bytes(self.path.parent)
        if free + have < self.size:
            raise OutputError(f"{self.path}: takes {self.size} bytes, only {free} more are free in {self.path.parent}")
        os.ftruncate(self._fd, min(os.fstat(self._fd).st_size, self.size))
        if self._old and hasattr(os, "fchmod"):
            os.fchmod(self._fd, self._old.st_mode & 0o7777)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | BINARY | (0 if self._starts else os.O_TRUNC)
        self._journal = os.open(self._journal_path, flags, 0o666)
        if self._starts:
            os.truncate(self._journal_path, self._whole_lines())
        else:
            os.write(self._journal, (json.dumps({"quantreg_journal": VERSION} | self.identity) + "\n").encode())

    def _whole_lines(self):
        """Bytes of the journal up to its last line end: a line that was cut off must not swallow the next."""
        with open(self._journal_path, "rb") as file:
            raw = file.read()
        return raw.rfind(b"\n") + 1

    @contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._temporary}: cannot be written: {error.strerror or error}") from error


def _digest(view):
    return hashlib.blake2b(view, digest_size=16).hexdigest()
