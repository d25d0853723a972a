"""Saving an importance matrix while it is collected, so that a run that is stopped can go on."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantreg.errors import OutputError, QuantregError
from quantreg.gguf import read_header
from quantreg.importance import FORMATS, UNFINISHED, ImportanceMatrix, write_matrix
from quantreg.storage import AtomicFile
from quantreg.words import count, listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quantreg.inference.model import Model
    from quantreg.quality.chunks import Chunks

__all__ = ["Saved", "Saves"]


@dataclass(frozen=True, slots=True)
class Saved:
    """An importance matrix was written to ``path``.

    ``chunks``: of how many chunks of the text. ``finished``: whether it is the last one. ``notes``: what is incomplete
    in it, as sentences; only in the last one.
    """

    path: str
    chunks: int
    finished: bool
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Saves:
    """Where and how often a run saves what it has collected.

    An unfinished GGUF file says in one more key which run it is of and how far it has come. Every file appears only
    when it is complete, in place of the one before.

    - ``every``: so many chunks are collected before ``path`` is written again; 0 for never before the end.
    - ``copies``: after so many chunks a copy is kept under a name of its own; 0 for none.
    - ``parts``: the matrices to which this one is added. ``path`` may be the file of one of them.
    - ``read``: what else the run reads; it is never replaced.
    """

    path: str
    format: str
    every: int
    copies: int
    force: bool
    parts: "Sequence[ImportanceMatrix]"
    read: "Sequence[str | bytes | os.PathLike[str]]" = ()
    _identity: dict[str, Any] = field(default_factory=dict)
    _total: int = 0

    def check(self) -> None:
        """Raise OutputError now if ``path`` must not be replaced."""
        if self.format not in FORMATS:
            raise ValueError(f"output_format is {self.format!r}: use one of {', '.join(FORMATS)}")
        if self.every < 0 or self.copies < 0:
            raise OutputError("the numbers of chunks between two saves are negative: use 0 for none")
        if _state(self.path) is None or self.format != "gguf":
            self._check_target()

    def _check_target(self) -> None:
        replaces = self.force or any(_same(self.path, part.path) for part in self.parts)
        if not replaces and os.path.isfile(self.path):
            try:
                there = ImportanceMatrix.read(self.path)
            except (QuantregError, OSError):
                pass
            else:
                n = there.chunk_count
                raise OutputError(
                    f"{self.path}: exists, with the sums of {count(n, 'chunk')}: choose another name, replace it with "
                    f"force (--force), or add the rest of the same text to it (--in-file {self.path} --from-chunk {n})"
                )
        with suppress(_MadeItError), AtomicFile(self.path, force=replaces, source=self.read):
            raise _MadeItError  # the file could be made: nothing stands in its way

    def begin(
        self,
        model: "Model",
        ids: "NDArray[np.int32]",
        chunks: "Chunks",
        from_chunk: int,
        *,
        output: bool,
        perplexity: bool,
    ) -> tuple[ImportanceMatrix, int, Sequence[float]] | None:
        """Return what an unfinished run like this one left at ``path``: matrix, number of chunks, and figures.

        Raises OutputError if an unfinished file belongs to another run.
        """
        self._total = len(chunks)
        self._identity = {
            "the model": _digest_of(model),
            "the text": hashlib.blake2b(ids.tobytes(), digest_size=16).hexdigest(),
            "the context": chunks.n_ctx,
            "the first chunk": from_chunk,
            "process_output": output,
            "perplexity": perplexity,
            "whether it adds to the file itself": any(_same(self.path, part.path) for part in self.parts),
            "the files to add to": [_part_digest(part) for part in self.parts if not _same(self.path, part.path)],
        }
        state = None if self.force or self.format != "gguf" else _state(self.path)
        if state is None:
            return None
        theirs = state.get("run", {})
        differ = [name for name, value in self._identity.items() if theirs.get(name) != value]
        if not differ and state["done"] <= len(chunks):
            return ImportanceMatrix.read(self.path), int(state["done"]), state["figures"]
        if any(_same(self.path, part.path) for part in self.parts):
            return None  # its sums are part of this run
        why = f"{listed(differ)} differed" if differ else f"only {count(len(chunks), 'chunk')} are wanted now"
        raise OutputError(
            f"{self.path}: holds {state['done']} of {state['chunks']} chunks of a run that did not finish, and "
            f"{why}: choose another name, add to it with --in-file {self.path}, or start "
            "over with force (--force)"
        )

    def regular(self, matrix: ImportanceMatrix, done: int, step: int, figures: Sequence[float]) -> Iterator[Saved]:
        """Save what it is time to save, ``step`` chunks after the last call."""
        if self.copies and _due(matrix.chunk_count, step, self.copies):
            path = f"{self.path}.at_{matrix.chunk_count}"
            write_matrix(matrix, path, self.format, force=True)
            yield Saved(path, done, finished=False)
        if self.every and _due(matrix.chunk_count, step, self.every) and done < self._total:
            yield from self.unfinished(matrix, done, figures)

    def unfinished(self, matrix: ImportanceMatrix, done: int, figures: Sequence[float]) -> Iterator[Saved]:
        """Save the matrix of a run that has come this far."""
        state = {"done": done, "chunks": self._total, "figures": list(figures), "run": self._identity}
        write_matrix(matrix, self.path, self.format, force=True, metadata={UNFINISHED: json.dumps(state)})
        yield Saved(self.path, done, finished=False)

    def finished(self, matrix: ImportanceMatrix) -> Iterator[Saved]:
        """Save the whole matrix."""
        notes = write_matrix(matrix, self.path, self.format, force=True)
        yield Saved(self.path, self._total, finished=True, notes=tuple(notes))


class _MadeItError(Exception):
    """Ends a block in which a file is made, so that the file is thrown away."""


def _due(done: int, step: int, every: int) -> bool:
    """Whether the last ``step`` chunks of ``done`` have completed a group of ``every`` chunks."""
    return done // every > (done - step) // every


def _state(path: str) -> dict[str, Any] | None:
    """What an unfinished file says about its run; None for any other file, and if there is none."""
    try:
        state = json.loads(read_header(path).metadata[UNFINISHED])
        return state if int(state["done"]) <= int(state["chunks"]) and state["figures"] is not None else None
    except (QuantregError, OSError, KeyError, TypeError, ValueError):
        return None


def _same(path: str, other: str | None) -> bool:
    return other is not None and os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _digest_of(model: "Model") -> str:
    """A digest of the header of a model and of a few bytes of each tensor."""
    digest = hashlib.blake2b(digest_size=16)
    for name in model.tensors:
        tensor = model.tensors[name]
        digest.update(f"{name} {tensor.shape} {tensor.type_id} ".encode())
        digest.update(tensor.data.reshape(-1)[:64].tobytes())
    return digest.hexdigest()


def _part_digest(part: ImportanceMatrix) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(part):
        digest.update(f"{name} {part.counts(name)} ".encode())
        digest.update(part.sums(name).tobytes())
    return digest.hexdigest()
