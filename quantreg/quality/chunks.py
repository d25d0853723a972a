"""Text or token ids in, chunks of tokens out: what perplexity and importance matrices evaluate."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import ModelError, QualityError
from quantreg.inference.model import Model, load
from quantreg.words import count

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from quantreg.devices import DeviceLike

    TextOrIds = str | Sequence[int] | ArrayLike
    ModelLike = Model | str | bytes | os.PathLike[str]

__all__ = ["BATCH", "Chunks", "batches", "context_warnings", "counted", "opened", "read_ids", "read_text", "token_ids"]

BATCH = 2048  # tokens that go through the layers at once: a decoded tile then serves that many rows
_READ = "quantreg.quality.read_text reads a file"
_IDS = re.compile(rb"[\s,\[\]]+")  # what separates ids in a file


def counted(n_ctx: int) -> int:
    """Return how many predictions of a chunk count: those in its second half, whose next token is in the chunk."""
    return n_ctx - 1 - n_ctx // 2


@dataclass(frozen=True, slots=True)
class Chunks:
    """A text as chunks of equal length, each of which is evaluated alone.

    - ``tokens``: int32 of shape (chunks, n_ctx), as they are in the text.
    - ``bos``: the id that takes the place of the first token of each chunk, or None.
    - ``left``: how many tokens after the last chunk are not evaluated.
    """

    tokens: "NDArray[np.int32]"
    bos: int | None
    left: int = 0

    @property
    def n_ctx(self) -> int:
        """The number of tokens of a chunk."""
        return int(self.tokens.shape[1])

    def __len__(self) -> int:
        return len(self.tokens)

    def inputs(self, start: int, stop: int) -> "NDArray[np.int32]":
        """Return the tokens of some chunks as the model gets them: with BOS in the first place."""
        tokens = self.tokens[start:stop]
        if self.bos is not None:
            tokens = tokens.copy()
            tokens[:, 0] = self.bos
        return tokens

    @classmethod
    def cut(
        cls, model: Model, ids: "NDArray[np.int32]", n_ctx: int = 512, chunks: int | None = None, skip: int = 0
    ) -> "Chunks":
        """Cut the tokens of a text into chunks of ``n_ctx``. What remains at the end is left out.

        ``chunks`` is the largest number of chunks, None for all; ``skip`` chunks at the start are left out. Raises
        QualityError if the text is shorter than two chunks, as the reference does.
        """
        if n_ctx < 4:
            raise QualityError(f"a context of {n_ctx} tokens is too short to predict anything: use at least 4 (-c)")
        if chunks is not None and chunks < 1:
            raise QualityError(
                f"the number of chunks is {chunks}: give 1 or more, or none for the whole text (--chunks)"
            )
        if len(ids) < 2 * n_ctx:
            most = len(ids) // 2
            hint = f", or use a context of {most} or less (-c {most})" if most >= 4 else ""
            raise QualityError(
                f"the text has {count(len(ids), 'token')}, but two chunks of {n_ctx} need {2 * n_ctx}: give a longer "
                f"text{hint}"
            )
        total = len(ids) // n_ctx
        if skip >= total or skip < 0:
            raise QualityError(
                f"the text has {total} chunks of {n_ctx} tokens, but {skip} are to be skipped: skip fewer"
            )
        stop = total if chunks is None else min(total, skip + chunks)
        return cls(ids[skip * n_ctx : stop * n_ctx].reshape(-1, n_ctx), model.bos, len(ids) - stop * n_ctx)


def batches(chunks: Chunks) -> Iterator[tuple[int, "NDArray[np.int32]"]]:
    """Yield (index of the first chunk, tokens of several chunks) for `Model.states`, about 2048 tokens at once."""
    step = max(1, BATCH // chunks.n_ctx)
    for start in range(0, len(chunks), step):
        yield start, chunks.inputs(start, start + step)


@contextmanager
def opened(model: "ModelLike", threads: int | None = None, device: "DeviceLike | None" = None) -> Iterator[Model]:
    """Give the model that a caller passed: as it is, or loaded from a path as these say and closed at the end."""
    if isinstance(model, (str, bytes, os.PathLike)):
        with load(model, threads, device) as loaded:
            yield loaded
    else:
        yield model


def token_ids(model: Model, text: "TextOrIds", *, special: bool = False) -> "NDArray[np.int32]":
    """Return the ids of a text, or check ids that are given. int32 of shape (tokens,).

    Special tokens in a text count as text unless ``special`` is set, and BOS comes first if the model adds it. Given
    ids are taken as they are. Raises ModelError for ids that are no integers or not in the vocabulary.
    """
    if isinstance(text, (bytes, bytearray, os.PathLike)):
        raise TypeError(f"the text is {type(text).__name__}: pass a str, or token ids; {_READ}")
    if isinstance(text, str) and len(text) < 256 and os.path.isfile(text):
        raise QualityError(f"the text is the name of the file {text}: pass what it holds; {_READ}")
    ids = np.asarray(model.tokenize(text, special=special) if isinstance(text, str) else text)
    if ids.size == 0:
        ids = ids.astype(np.int32)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ModelError(f"token ids are {ids.dtype} of shape {ids.shape}: expected integers of shape (tokens,)")
    wrong = np.flatnonzero((ids < 0) | (ids >= model.n_vocab))
    if len(wrong):
        raise ModelError(
            f"token {wrong[0]} of the text has the id {ids[wrong[0]]}, but the vocabulary of the model has "
            f"{model.n_vocab} tokens: make the ids with the tokenizer of this model"
        )
    return ids.astype(np.int32)


def read_text(path: str | bytes | os.PathLike[str]) -> str:
    """Read a UTF-8 text, without its last newline, as the llama.cpp tools do. Line ends are kept as they are."""
    data = Path(os.fsdecode(path)).read_bytes()
    try:
        return data.removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        raise QualityError(
            f"{os.fsdecode(path)}: is not text in UTF-8 (byte {error.start} is {data[error.start]:#04x}): convert it, "
            "or give token ids with --ids"
        ) from None


def read_ids(path: str | bytes | os.PathLike[str]) -> "NDArray[np.int64]":
    """Read token ids that spaces, commas, brackets or line ends separate, as ``llama-tokenize --ids`` prints them.

    Raises QualityError for anything else in the file.
    """
    data = Path(os.fsdecode(path)).read_bytes()
    words = [word for word in _IDS.split(data) if word]
    for place, word in enumerate(words, 1):
        if not (word.isdigit() and len(word) < 19):
            shown = word[:24].decode(errors="replace") + ("..." if len(word) > 24 else "")
            raise QualityError(
                f"{os.fsdecode(path)}: item {place} is {shown!r}, not a token id: expected integers from 0, as "
                "`llama-tokenize --ids` prints them"
            )
    return np.array([int(word) for word in words], np.int64)


def context_warnings(model: Any, n_ctx: int) -> tuple[str, ...]:
    """Warn if chunks are longer than the context that the model was trained on."""
    if model.context and n_ctx > model.context:
        return (
            f"the model was trained on {model.context} context tokens, and chunks of {n_ctx} are longer: its "
            f"predictions beyond {model.context} may be poor (-c {model.context})",
        )
    return ()
