"""`quantreg.perplexity` and `quantreg.kl_divergence`: the run over all chunks of a text."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import ModelError, QualityError
from quantreg.keywords import names_nearest
from quantreg.quality.base import MAGIC, BaseFile, header, row_codes, rows_as_stored
from quantreg.quality.chunks import Chunks, batches, context_warnings, counted, opened, token_ids
from quantreg.quality.logprobs import Scores, encoded, scored
from quantreg.quality.results import ChunkDone, Divergence, Perplexity, Started, Totals, chunk_done
from quantreg.storage import AtomicFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.devices import DeviceLike
    from quantreg.inference.model import Model
    from quantreg.quality.chunks import ModelLike, TextOrIds

    Progress = Callable[[Started | ChunkDone], object]

__all__ = ["kl_divergence", "perplexity"]

_LOGITS = 128 << 20  # bytes of logits that exist at once
_TOKENS = "tokenizer.ggml.tokens"


@names_nearest
def perplexity(
    model: "ModelLike",
    text: "TextOrIds",
    *,
    n_ctx: int = 512,
    chunks: int | None = None,
    save_base: str | bytes | os.PathLike[str] | None = None,
    force: bool = False,
    threads: int | None = None,
    device: "DeviceLike | None" = None,
    progress: "Progress | None" = None,
) -> Perplexity:
    """Measure how well a model predicts a text.

    - ``model``: a `Model`, or the path of one.
    - ``text``: the text, or its token ids: integers of shape (tokens,).
    - ``n_ctx``: tokens of a chunk. ``chunks``: the largest number of chunks; None for the whole text.
    - ``save_base``: also write a base file for `kl_divergence` and for llama-perplexity. It takes 2 bytes per counted
      token and token of the vocabulary. ``force`` replaces an existing file.
    - ``threads``: how many threads work, by default as many as processors. A `Model` was loaded with threads of its own
      for its passes; then these turn logits into probabilities. ``device``: what computes the products of a model that
      is given as a path (see `quantreg.load`).
    - ``progress``: called with `quantreg.quality.Started`, then with a `ChunkDone` for each chunk.

    Raises ModelError if the model cannot run, has no such tokens or gives logits that are not finite; TokenizerError;
    DeviceError; QualityError if the text is shorter than two chunks; OutputError if the base file cannot be written.
    """
    with opened(model, threads, device) as loaded:
        _refuse_embedders(loaded)
        cut = Chunks.cut(loaded, token_ids(loaded, text), n_ctx, chunks)
        with ExitStack() as stack:
            write = None
            if save_base is not None:
                head = header(cut, loaded.n_vocab)
                size = len(head) + len(cut) * counted(n_ctx) * row_codes(loaded.n_vocab) * 2
                write = stack.enter_context(AtomicFile(save_base, force=force, size=size)).write
                write(head)
            run = _Run([loaded], cut, threads, progress)
            for logits, targets in run.predictions():
                if write is not None:
                    write(rows_as_stored(encoded(logits[0], threads)))
                run.add(scored(logits[0], targets, threads=threads))
        return Perplexity(**run.totals.perplexity(), **run.facts())


@names_nearest
def kl_divergence(
    model: "ModelLike",
    base: "ModelLike | BaseFile",
    text: "TextOrIds | None" = None,
    *,
    n_ctx: int | None = None,
    chunks: int | None = None,
    threads: int | None = None,
    device: "DeviceLike | None" = None,
    progress: "Progress | None" = None,
) -> Divergence:
    """Measure how far the predictions of a model are from those of a base model.

    - ``model``: a `Model`, or the path of one.
    - ``base``: the base model, which runs beside ``model``; or a base file that `perplexity` or llama-perplexity wrote,
      as a path or a `quantreg.quality.BaseFile`.
    - ``text``: as in `perplexity`. A base file holds its tokens and needs none; if there is one, it must be the same.
    - ``n_ctx``: tokens of a chunk, by default 512 or those of the base file.
    - ``chunks``, ``threads``, ``device``, ``progress``: as in `perplexity`.

    Raises what `perplexity` raises, and QualityError for a base file that is damaged or belongs to another vocabulary
    or text.
    """
    with ExitStack() as stack:
        if isinstance(base, (str, bytes, os.PathLike)) and _is_base_file(base):
            base = stack.enter_context(BaseFile(base))
        loaded = stack.enter_context(opened(model, threads, device))
        _refuse_embedders(loaded)
        models = [loaded]
        if not isinstance(base, BaseFile):
            models.append(stack.enter_context(opened(base, threads, device)))
            _refuse_embedders(models[1])
            _compare_vocabularies(*models)
            if text is None:
                raise QualityError("there is no text: give a text or token ids, which only a base file contains")
        ids = None if text is None else token_ids(loaded, text)
        if isinstance(base, BaseFile):
            cut = base.chunks_for(loaded, ids, n_ctx, chunks)
        else:
            assert ids is not None  # checked above
            cut = Chunks.cut(loaded, ids, n_ctx or 512, chunks)
        run = _Run(models, cut, threads, progress, against=True)
        for logits, targets in run.predictions():
            done = run.totals.count + run.waiting
            theirs = base.rows(done, done + len(targets)) if isinstance(base, BaseFile) else logits[1]
            run.add(scored(logits[0], targets, base=theirs, threads=threads))
        return Divergence(**run.totals.means(), **run.totals.quantiles(), **run.facts())


def _is_base_file(path: str | bytes | os.PathLike[str]) -> bool:
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _refuse_embedders(model: "Model") -> None:
    if not model.graph.generates:
        raise ModelError(
            f"{model.architecture.name} models make embeddings and predict no tokens: they have no perplexity; give a "
            "model that generates text"
        )


def _compare_vocabularies(model: "Model", base: "Model") -> None:
    """Raise QualityError if the models number tokens differently."""
    if model.n_vocab != base.n_vocab:
        raise QualityError(
            f"the models have vocabularies of {model.n_vocab} and {base.n_vocab} tokens: compare models with the same "
            "tokenizer"
        )
    tokens, theirs = model.metadata.get(_TOKENS), base.metadata.get(_TOKENS)
    if tokens is not None and theirs is not None and list(tokens) != list(theirs):
        raise QualityError("the tokens of the two models differ: compare models with the same tokenizer")


def _quiet() -> np.errstate:
    """Let no warning tell what becomes an error with a better message: numbers that are not finite."""
    return np.errstate(all="ignore")


class _Run:
    """One pass over all chunks, with the figures so far."""

    def __init__(
        self,
        models: "Sequence[Model]",
        chunks: Chunks,
        threads: int | None,
        progress: "Progress | None",
        against: bool = False,
    ) -> None:
        self.models = models
        self.chunks = chunks
        self.progress = progress
        self.warnings = context_warnings(models[0], chunks.n_ctx)
        self.totals = Totals(against)
        self.waiting = 0  # predictions in _rest: those of a chunk that is not complete
        self._rest: Scores | None = None
        self._running: list[float] = []
        self._began = time.monotonic()
        if progress is not None:
            progress(Started(len(chunks), chunks.n_ctx, against, self.warnings))

    def predictions(self) -> "Iterator[tuple[list[NDArray[np.float32]], NDArray[np.int32]]]":
        """Yield the logits of each model, (rows, vocabulary), with the true tokens, for all counted predictions."""
        n_ctx = self.chunks.n_ctx
        first = n_ctx // 2
        vocabulary = self.models[0].n_vocab * len(self.models)
        for start, ids in batches(self.chunks):
            targets = self.chunks.tokens[start : start + len(ids), first + 1 :].reshape(-1)
            with _quiet():
                states = [model.states(ids)[:, first : n_ctx - 1].reshape(len(targets), -1) for model in self.models]
            pieces = -(-len(targets) * vocabulary * 4 // _LOGITS)
            edges = [len(targets) * piece // pieces for piece in range(pieces + 1)]
            for begin, end in pairwise(edges):
                with _quiet():
                    logits = [model.output(rows[begin:end]) for model, rows in zip(self.models, states, strict=True)]
                yield logits, targets[begin:end]

    def add(self, scores: Scores) -> None:
        """Add the scores of what `predictions` gave last, and report each chunk that is now complete."""
        if self._rest is not None:
            scores = self._rest.followed_by(scores)
        size, n = counted(self.chunks.n_ctx), len(scores.nll)
        for start in range(0, n - size + 1, size):
            self._add_chunk(scores.part(start, start + size))
        self.waiting = n % size
        self._rest = scores.part(n - self.waiting, n) if self.waiting else None

    def _add_chunk(self, scores: Scores) -> None:
        chunk = len(self._running) + 1
        if not np.isfinite([column.sum() for column in scores[:3]]).all():
            raise self._not_finite(chunk)
        self.totals.add(scores)
        done = chunk_done(self.totals, chunk, len(self.chunks))
        self._running.append(done.perplexity)
        if self.progress is not None:
            self.progress(done)

    def _not_finite(self, chunk: int) -> ModelError:
        """Return the error for a chunk whose logits are not finite. It names the first matrix with such input."""
        where = ""
        for model in self.models:
            found: list[str] = []

            def observe(name: str, x: "NDArray[np.float32]", experts: object, found: list[str] = found) -> None:
                if not np.isfinite(x).all():
                    found.append(name)

            ids = self.chunks.inputs(chunk - 1, chunk)
            with _quiet():
                logits = model.output(model.states(ids, observe=observe), observe=observe)
            if found:
                where = f"the first matrix whose input holds them is {found[0]}"
            elif not np.isfinite(logits).all():
                where = "all inputs of matrices are finite, so they come from the output matrix"
            if where:
                break
        return ModelError(
            f"the logits of chunk {chunk} hold NaN or infinity; {where}: check the model with `quantreg validate`, or "
            "quantize it anew"
        )

    def facts(self) -> dict[str, Any]:
        """Return the fields of a result that describe the run."""
        seconds = time.monotonic() - self._began
        return {
            "chunks": len(self.chunks),
            "n_ctx": self.chunks.n_ctx,
            "tokens": self.totals.count,
            "running": tuple(self._running),
            "seconds": seconds,
            "tokens_per_second": self.chunks.tokens.size / seconds if seconds else 0.0,
            "warnings": self.warnings,
        }
