"""The folder beside an output where the results of calibration wait until the output is written."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quantreg.errors import OutputError
from quantreg.storage import BINARY, lock_file, new_folder, remove_dead
from quantreg.tuning.store import Store

__all__ = ["Folder"]

_LOCK = "lock"  # the file in the folder that a run holds


class Folder:
    """The folder beside an output where results wait until the output is written. A context manager.

    If the run is ``resumable``, it is ``OUT.tuning`` and stays there when the run ends early; ``resume`` goes on with
    it. It is locked, so only one run uses it at a time. Without an output, as for a plan, it is among the temporary
    files. Raises OutputError.
    """

    path: Path

    def __init__(
        self,
        out: str | bytes | os.PathLike[str] | None,
        *,
        resumable: bool = False,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        self._keeps = resumable or resume
        self._resume, self._force = resume, force
        self._out = None if out is None else os.path.realpath(os.fsdecode(out))
        self.path = Path()
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            folder = tempfile.gettempdir() if self._out is None else os.path.dirname(self._out)
            remove_dead(folder)
            if self._out is None or not self._keeps:
                self.path, self._lock = new_folder(folder, ".tuning")
            else:
                self.path = Path(f"{self._out}.tuning")
                begun = self.path.exists()
                self._make_and_lock()
                if begun and not self._resume:
                    self._start_over()
        except OSError as error:
            where = self.path if self.path.name else self._out
            raise OutputError(f"{where}: cannot keep results beside the output: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        worth = any((self.path / name).exists() for name in (self.importance.name, "search.npz", "tensors"))
        if kind is not None and self._keeps and worth:
            self._unlock()
        else:
            self._remove()

    def _make_and_lock(self) -> None:
        while True:
            self.path.mkdir(exist_ok=True)
            lock = self.path / _LOCK
            try:
                self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
            except FileNotFoundError:  # another run has ended in the meantime and removed the folder
                continue
            try:
                lock_file(self._lock)
            except OSError:
                self._unlock()
                raise OutputError(f"{self.path}: another run is using it: wait for it or stop it") from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock), os.stat(lock)):
                    return
            self._unlock()

    def _start_over(self) -> None:
        if not self._force:
            self._unlock()
            raise OutputError(
                f"{self.path}: holds an unfinished run: go on with resume (--resume), or start over with force "
                "(--force)"
            )
        for entry in self.path.iterdir():
            if entry.name != _LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _remove(self) -> None:
        if os.name == "nt":  # Windows cannot remove an open file; elsewhere the lock must last until then
            self._unlock()
        with suppress(OSError):
            shutil.rmtree(self.path)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def importance(self) -> Path:
        """The file for the importance matrix."""
        return self.path / "imatrix.gguf"

    def take_importance(self, other: "Folder") -> None:
        """Copy the importance matrix of another folder. Raises OutputError."""
        new = self.importance.with_suffix(".new")
        try:
            shutil.copyfile(other.importance, new)
            os.replace(new, self.importance)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot keep results beside the output: {error.strerror}") from None

    def store(self, identity: Mapping[str, Any]) -> Store:
        """The encoded tensors."""
        return Store(self.path / "tensors", identity)

    def agree(self, identity: Mapping[str, Any]) -> None:
        """Refuse results that were made from something else; note what these are made from."""
        note = self.path / "identity.json"
        mine = json.loads(json.dumps(identity))
        begun: dict[str, Any] = {}
        with suppress(FileNotFoundError, ValueError):
            begun = json.loads(note.read_text(encoding="utf-8"))
        for key in sorted({*begun} & {*mine}):
            if begun[key] != mine[key]:
                raise OutputError(
                    f"{self.path}: was begun with another {key} ({begun[key]!r:.60} then, {mine[key]!r:.60} now): "
                    "repeat the command with which it was begun, or remove the folder to start over"
                )
        new = note.with_suffix(".new")
        try:
            new.write_text(json.dumps(begun | mine), encoding="utf-8")
            os.replace(new, note)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot keep results beside the output: {error.strerror}") from None
