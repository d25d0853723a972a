"""`quantreg.collect_imatrix`: a text runs through a model, and the importance of the columns adds up."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantreg.errors import ModelError, OutputError
from quantreg.importance import ImportanceMatrix, Sums
from quantreg.keywords import names_nearest
from quantreg.quality.activations import Activations
from quantreg.quality.chunks import Chunks, batches, context_warnings, opened, token_ids
from quantreg.quality.logprobs import Scores, scored
from quantreg.quality.results import ChunkDone, Started, Totals, chunk_done
from quantreg.quality.saving import Saved, Saves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.devices import DeviceLike
    from quantreg.importance import ImatrixLike
    from quantreg.inference.model import Model
    from quantreg.quality.chunks import ModelLike, TextOrIds

    Progress = Callable[[Started | ChunkDone | Saved], object]

__all__ = ["collect_imatrix"]

_LOGITS = 128 << 20  # bytes of logits that exist at once
_NO_BASE = (np.empty(0), np.empty(0), np.empty(0, np.bool_))


@names_nearest
def collect_imatrix(
    model: "ModelLike",
    text: "TextOrIds",
    *,
    n_ctx: int = 512,
    chunks: int | None = None,
    from_chunk: int = 0,
    process_output: bool = False,
    parse_special: bool = False,
    perplexity: bool = False,
    add_to: "Iterable[ImatrixLike]" = (),
    dataset: str | None = None,
    out: str | bytes | os.PathLike[str] | None = None,
    output_format: str = "gguf",
    output_frequency: int = 10,
    save_frequency: int = 0,
    force: bool = False,
    threads: int | None = None,
    device: "DeviceLike | None" = None,
    progress: "Progress | None" = None,
) -> ImportanceMatrix:
    """Collect the importance of the columns of each matrix of a model on a text, as llama-imatrix does.

    The text is cut into chunks, each evaluated alone. An entry holds the sums of the squared inputs of a matrix in a
    layer, over all tokens; that of a stack of experts holds one sum per expert, over the tokens routed to it.

    - ``model``: a `Model`, or the path of one. ``text``: the text, or its token ids: integers of shape (tokens,).
    - ``n_ctx``: tokens of a chunk. ``chunks``: the largest number of chunks. ``from_chunk``: leave out so many at the
      start.
    - ``process_output``: collect for output.weight, too. A model without such a tensor has no entry for it.
    - ``parse_special``: special tokens in the text are tokens, and not text.
    - ``perplexity``: also measure the perplexity, for ``progress``.
    - ``add_to``: matrices to which the sums are added. ``dataset``: the name of the text, for the matrix.
    - ``out``: write the matrix to this file, in ``output_format`` "gguf" or "dat", after every ``output_frequency``
      chunks (0: only at the end). With ``save_frequency``, copies named ``out``.at_N are kept. If a run was stopped,
      the same call goes on with its GGUF file. ``force`` replaces an existing file.
    - ``threads``: how many threads turn logits into probabilities, by default as many as processors. ``device``: what
      computes the products of a model that is given as a path (see `quantreg.load`).
    - ``progress``: called with `quantreg.quality.Started`, a `ChunkDone` for each chunk, and a `Saved` for each file.

    Raises ModelError if the model cannot run, has no such tokens or computes NaN; TokenizerError; QualityError if the
    text is shorter than two chunks; ImportanceError for ``add_to``; and OutputError if a file cannot be written.
    """
    parts = [ImportanceMatrix.of(part) for part in add_to]
    saves = None
    if out is not None:
        read = [path for path in (model, dataset) if isinstance(path, (str, bytes, os.PathLike))]
        saves = Saves(os.fsdecode(out), output_format, output_frequency, save_frequency, force, parts, read)
        saves.check()
    with opened(model, device=device) as loaded:
        if perplexity and not loaded.graph.generates:
            raise ModelError(
                f"{loaded.architecture.name} models make embeddings and predict no tokens: they have no perplexity; "
                "collect without it (--no-ppl)"
            )
        ids = token_ids(loaded, text, special=parse_special)
        cut = Chunks.cut(loaded, ids, n_ctx, chunks, from_chunk)
        run = _Run(loaded, cut, _Options(process_output, perplexity, threads), parts, dataset, progress)
        if saves is not None:
            run.go_on(saves.begin(loaded, ids, cut, from_chunk, output=process_output, perplexity=perplexity))
        return run.all(saves)


@dataclass(frozen=True, slots=True)
class _Options:
    """What a run does beside adding up the inputs of the layers."""

    output: bool
    perplexity: bool
    threads: int | None


class _Run:
    """One pass over all chunks."""

    def __init__(
        self,
        model: "Model",
        chunks: Chunks,
        options: _Options,
        parts: "Sequence[ImportanceMatrix]",
        dataset: str | None,
        progress: "Progress | None",
    ) -> None:
        self.model, self.chunks, self.options, self.progress = model, chunks, options, progress
        self.sums = Sums()
        for part in parts:
            self.sums.add_matrix(part, chunks.n_ctx)
        self.datasets = [name for part in parts for name in part.datasets] + ([dataset] if dataset else [])
        self.totals = Totals(against=False)
        self.done = 0
        has_output = "output.weight" in model.tensors and model.graph.generates
        self._output = options.output and has_output
        self._warnings = list(context_warnings(model, chunks.n_ctx))
        if options.output and not has_output:
            self._warnings.append(
                "the model has no output.weight (it uses token_embd.weight again): nothing is collected for it, which "
                "is what llama-imatrix does"
            )

    def go_on(self, state: "tuple[ImportanceMatrix, int, Sequence[float]] | None") -> None:
        """Take over the sums of an unfinished run, how many chunks they have, and its figures."""
        if state is None:
            return
        matrix, self.done, figures = state
        self.datasets = list(matrix.datasets)
        self.sums = Sums()
        self.sums.add_matrix(matrix, self.chunks.n_ctx)
        self.totals.restore(figures)

    def matrix(self) -> ImportanceMatrix:
        """The matrix so far."""
        n_ctx = self.chunks.n_ctx
        return ImportanceMatrix(
            self.sums, datasets=self.datasets, chunk_count=self.sums.chunks(n_ctx), chunk_size=n_ctx
        )

    def all(self, saves: Saves | None) -> ImportanceMatrix:
        """Run all chunks. What was collected before an error or Ctrl-C is saved."""
        activations = Activations(self.model, self.sums, self._output)
        self._tell(Started(len(self.chunks), self.chunks.n_ctx, warnings=tuple(self._warnings), done=self.done))
        rest = Chunks(self.chunks.tokens[self.done :], self.chunks.bos)
        before = self.done
        try:
            for start, ids in batches(rest):
                figures = self._batch(ids, rest.tokens[start : start + len(ids)], activations)
                activations.keep()
                self.done = before + start + len(ids)
                for event in figures:
                    self._tell(event)
                if saves is not None:
                    self._saved(saves.regular(self.matrix(), self.done, len(ids), self.totals.saved()))
        except BaseException as error:
            if saves is not None and self.done > before and not isinstance(error, OutputError):
                self._saved(saves.unfinished(self.matrix(), self.done, self.totals.saved()))
            raise
        matrix = self.matrix()
        if saves is not None:
            self._saved(saves.finished(matrix))
        return matrix

    def _batch(
        self, ids: "NDArray[np.int32]", tokens: "NDArray[np.int32]", activations: Activations
    ) -> list[ChunkDone]:
        """Run some chunks; return what there is to tell about each. ``tokens`` are ``ids`` without BOS."""
        if self.model.graph.generates:  # the reference computes all tokens of other models at once
            activations.begin(*ids.shape)
        states = self.model.states(ids, observe=activations.observe)
        chunks = range(self.done + 1, self.done + len(ids) + 1)
        if not self.options.perplexity:
            if self._output:
                for _ in self._logits(states, activations):
                    pass
            return [ChunkDone(chunk, len(self.chunks), math.nan, math.nan) for chunk in chunks]
        n_ctx, first = ids.shape[1], ids.shape[1] // 2
        kept = slice(0, n_ctx) if self._output else slice(first, n_ctx - 1)
        following = np.full(ids.shape, -1, np.int32)  # -1: no prediction that counts
        following[:, first : n_ctx - 1] = tokens[:, first + 1 :]
        targets = following[:, kept].reshape(-1)
        nll, start = [], 0
        for logits in self._logits(states[:, kept], activations):
            part = targets[start : start + len(logits)]
            start += len(logits)
            if part.min() < 0:
                logits, part = logits[part >= 0], part[part >= 0]
            nll.append(scored(logits, part, threads=self.options.threads).nll)
        by_chunk = np.concatenate(nll).reshape(len(ids), -1)
        return [self._figures(chunk, part) for chunk, part in zip(chunks, by_chunk, strict=True)]

    def _logits(self, states: "NDArray[np.float32]", activations: Activations) -> "Iterator[NDArray[np.float32]]":
        """Yield the logits of hidden states, so many rows at a time that memory stays bounded."""
        rows = states.reshape(-1, states.shape[-1])
        step = max(1, _LOGITS // (4 * self.model.n_vocab))
        for begin in range(0, len(rows), step):
            yield self.model.output(rows[begin : begin + step], observe=activations.observe)

    def _figures(self, chunk: int, nll: "NDArray[np.float64]") -> ChunkDone:
        if not np.isfinite(nll).all():
            raise ModelError(
                f"the logits of chunk {chunk} hold NaN or infinity: check the model with `quantreg validate`, or "
                "quantize it anew"
            )
        self.totals.add(Scores(nll, *_NO_BASE))
        return chunk_done(self.totals, chunk, len(self.chunks))

    def _saved(self, events: "Iterable[Saved]") -> None:
        for event in events:
            self._tell(event)

    def _tell(self, event: "Started | ChunkDone | Saved") -> None:
        if self.progress is not None:
            self.progress(event)
