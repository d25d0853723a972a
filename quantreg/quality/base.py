"""Base files: the tokens of a text and what one model predicts for them, as ``--kl-divergence-base`` writes them.

The layout is that of llama-perplexity, little-endian: ``_logits_``, n_ctx (uint32), the size of the vocabulary and the
number of chunks (int32), all tokens (int32); then one row of uint16 for each counted prediction. A row begins with a
scale and a minimum (two float32), and holds a code per token of the vocabulary: log p = scale * code + minimum. Rows
of an odd vocabulary have one more code, which means nothing.
"""

import os
import struct
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from quantreg.errors import QualityError
from quantreg.quality.chunks import Chunks, counted
from quantreg.words import count

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from quantreg.inference.model import Model

__all__ = ["HEAD", "BaseFile", "header", "row_codes", "rows_as_stored"]

MAGIC = b"_logits_"
HEAD = 4  # codes at the start of a row that hold its scale and its minimum
_NUMBERS = struct.Struct("<Iii")
_START = len(MAGIC) + _NUMBERS.size


def row_codes(n_vocab: int) -> int:
    """Return how many uint16 a row of a base file takes."""
    return HEAD + n_vocab + n_vocab % 2


def header(chunks: Chunks, n_vocab: int) -> bytes:
    """Return the bytes in front of the rows."""
    return (
        MAGIC + _NUMBERS.pack(chunks.n_ctx, n_vocab, len(chunks)) + np.ascontiguousarray(chunks.tokens, "<i4").tobytes()
    )


def rows_as_stored(codes: "NDArray[np.uint16]") -> "NDArray[np.uint16]":
    """Return rows in the byte order of the file."""
    return codes.astype("<u2", copy=False)


class BaseFile:
    """A base file that is open for reading. A context manager.

    - ``path``: the file.
    - ``n_ctx``, ``n_vocab``: the length of a chunk and the size of the vocabulary.
    - ``tokens``: int32 of shape (chunks, n_ctx), as they were in the text.
    - ``whole``: how many chunks have all their rows. Fewer than there are tokens for if the file was cut short.

    Raises QualityError if it is empty, no base file, or damaged, and OSError if it cannot be read.
    """

    path: str
    n_ctx: int
    n_vocab: int
    whole: int

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self.path = os.fsdecode(path)
        self._file: BinaryIO = open(self.path, "rb")  # noqa: SIM115, closed by close()
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if not size:
            raise self._error("is empty (0 bytes)")
        start = self._file.read(_START)
        if not start.startswith(MAGIC[: len(start)]):
            raise self._error(f"is not a base file: it begins with {start[:8]!r} instead of {MAGIC!r}")
        if len(start) < _START:
            raise self._error(f"is cut short: it has {size} bytes, and its header alone takes {_START}")
        self.n_ctx, self.n_vocab, n_chunks = _NUMBERS.unpack_from(start, len(MAGIC))
        if self.n_ctx < 4 or self.n_vocab < 1 or n_chunks < 1:
            raise self._error(
                f"is damaged: its header says {n_chunks} chunks of {self.n_ctx} tokens and a vocabulary of "
                f"{self.n_vocab}"
            )
        self._rows = counted(self.n_ctx)
        self._codes = row_codes(self.n_vocab)
        self._data = _START + 4 * self.n_ctx * n_chunks
        chunk_bytes = 2 * self._codes * self._rows
        if size < self._data:
            raise self._error(f"is cut short: it has {size} bytes, and its tokens end at byte {self._data}")
        self.whole = min(n_chunks, (size - self._data) // chunk_bytes)
        if size > self._data + n_chunks * chunk_bytes:
            raise self._error(
                f"is damaged: it has {size} bytes, but its header describes {self._data + n_chunks * chunk_bytes}"
            )
        self.tokens: NDArray[np.int32] = (
            np.frombuffer(self._file.read(self._data - _START), "<i4").astype(np.int32).reshape(n_chunks, self.n_ctx)
        )
        if self.tokens.min() < 0 or self.tokens.max() >= self.n_vocab:
            wrong = int(self.tokens[(self.tokens < 0) | (self.tokens >= self.n_vocab)][0])
            raise self._error(f"is damaged: it holds the token {wrong}, but its vocabulary has {self.n_vocab} tokens")

    def _error(self, what: str) -> QualityError:
        return QualityError(f"{self.path}: {what}: write it anew, with --kl-divergence-base on the base model")

    def chunks_for(
        self,
        model: "Model",
        ids: "NDArray[np.int32] | None" = None,
        n_ctx: int | None = None,
        chunks: int | None = None,
    ) -> Chunks:
        """Return the chunks that are compared, after checks that the file belongs to this model and this text.

        ``ids`` are the tokens of the text, ``n_ctx`` is the context that was asked for and ``chunks`` is the largest
        number of chunks; each may be None. Raises QualityError.
        """
        if self.n_vocab != model.n_vocab:
            raise QualityError(
                f"{self.path}: was written for a vocabulary of {self.n_vocab} tokens, but the model has "
                f"{model.n_vocab}: compare models with the same tokenizer"
            )
        if n_ctx is not None and n_ctx != self.n_ctx:
            raise QualityError(
                f"{self.path}: holds chunks of {self.n_ctx} tokens, not of {n_ctx}: leave out the context (-c), or "
                "write the base file anew"
            )
        if chunks is not None and chunks < 1:
            raise QualityError(f"the number of chunks is {chunks}: give 1 or more, or none for all (--chunks)")
        used = min(len(self.tokens), chunks or len(self.tokens))
        if self.whole < used:
            hint = f", or compare the first {self.whole} (--chunks {self.whole})" if self.whole else ""
            raise QualityError(
                f"{self.path}: is cut short: {self.whole} of {count(len(self.tokens), 'chunk')} are complete: write "
                f"it anew{hint}"
            )
        if ids is not None:
            theirs = self.tokens[:used].reshape(-1)
            mine = ids[: len(theirs)]
            differ = np.flatnonzero(mine != theirs[: len(mine)])
            if len(differ) or len(mine) < len(theirs):
                place = int(differ[0]) if len(differ) else len(mine)
                raise QualityError(
                    f"{self.path}: holds other tokens than the text, from token {place} on: leave out the text (-f), "
                    "because the base file holds its tokens, or give the text that the base file was made from"
                )
        return Chunks(self.tokens[:used], model.bos)

    def rows(self, start: int, stop: int) -> "NDArray[np.uint16]":
        """Read the rows of some counted predictions: uint16 of shape (stop - start, codes).

        Raises QualityError if a scale or minimum is not finite, or a probability is above 1.
        """
        self._file.seek(self._data + 2 * self._codes * start)
        data = self._file.read(2 * self._codes * (stop - start))
        if len(data) != 2 * self._codes * (stop - start):
            raise self._error(f"is cut short in chunk {start // self._rows + 1}")
        rows = np.frombuffer(data, "<u2").astype(np.uint16, copy=False).reshape(stop - start, self._codes)
        numbers = rows[:, :HEAD].copy().view(np.float32)
        with np.errstate(all="ignore"):
            good = np.isfinite(numbers).all(axis=1) & (numbers[:, 0] >= 0) & (numbers.sum(axis=1) < 2)
        if not good.all():
            chunk = (start + int(np.argmin(good))) // self._rows
            raise self._error(f"is damaged: chunk {chunk + 1} has a scale of {numbers[np.argmin(good), 0]:g}")
        return rows

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BaseFile {self.path}: {len(self.tokens)} chunks of {self.n_ctx}, vocabulary {self.n_vocab}>"
