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
from quantreg.tuning.store import Store

__all__ = ["Folder"]


class Folder:
    """The folder beside an output where results wait until the output is written. A context manager.

    If the run is ``resumable``, it is ``OUT.tuning`` and stays there when the run ends early; ``resume`` goes on with
    it. Without an output, as for a plan, it is among the temporary files. Raises OutputError.
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

    def __enter__(self) -> Self:
        try:
            if self._out is None:
                self.path = Path(tempfile.mkdtemp(prefix="quantreg-"))
            elif not self._keeps:
                folder, name = os.path.split(self._out)
                self.path = Path(tempfile.mkdtemp(prefix=".quantreg-", suffix=f"-{name[:40]}.tuning", dir=folder))
            else:
                self.path = Path(f"{self._out}.tuning")
                if self.path.exists() and not self._resume:
                    if not self._force:
                        raise OutputError(
                            f"{self.path}: holds an unfinished run: go on with resume (--resume), or start over with "
                            "force (--force)"
                        )
                    shutil.rmtree(self.path)
                self.path.mkdir(exist_ok=True)
        except OSError as error:
            where = self.path if self.path.name else self._out
            raise OutputError(f"{where}: cannot keep results beside the output: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        worth = self.importance.exists()  # it comes first
        if kind is not None and self._keeps and worth:
            return
        with suppress(OSError):
            shutil.rmtree(self.path)

    @property
    def importance(self) -> Path:
        """The file for the importance matrix."""
        return self.path / "imatrix.gguf"

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
        new.write_text(json.dumps(begun | mine), encoding="utf-8")
        os.replace(new, note)
