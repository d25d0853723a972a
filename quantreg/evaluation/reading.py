"""How far a model's predictions of a text move when its weights get another type: the KL divergence."""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from quantreg.dispatch import quantize
from quantreg.errors import PlanError
from quantreg.evaluation.results import TextMeasure, TextResult
from quantreg.evaluation.round_trip import Matrices, fit_model, parameter_bytes
from quantreg.evaluation.targets import Encoding, Target
from quantreg.inference.model import Model
from quantreg.parameters import TensorContext
from quantreg.qtype import QuantType
from quantreg.quality import BaseFile, Perplexity, kl_divergence, perplexity, read_text
from quantreg.quality.chunks import token_ids
from quantreg.tensor import QuantizedTensor

if TYPE_CHECKING:
    from typing import Self

    from quantreg.files import File
    from quantreg.parameters import Fitted
    from quantreg.quality import ChunkDone, Started
    from quantreg.quality.chunks import TextOrIds

    Text = TextOrIds | os.PathLike[str]
    Report = Callable[[str, str, int, int], object]  # what is done next, type, chunks that are done, all chunks

__all__ = ["Reading"]

ITSELF = "the model itself"


class Reading:
    """A text that a model predicts, first as it is and then with its weights in other types. A context manager.

    The predictions of the model as it is wait in a temporary base file: 2 bytes per token of the vocabulary and
    counted prediction.
    """

    name: str | None
    model: Model
    itself: Perplexity

    def __init__(
        self, file: "File", text: "Text", *, n_ctx: int = 512, chunks: int | None = None, threads: int | None = None
    ) -> None:
        from tempfile import TemporaryDirectory  # slow to load, and only this needs it

        self.name = os.fspath(text) if isinstance(text, os.PathLike) else None
        self._n_ctx, self._chunks, self._threads = n_ctx, chunks, threads
        self._done = self._total = self._types = 0
        with ExitStack() as stack:
            self.model = stack.enter_context(Model(file.metadata, file, threads=threads))
            self._ids = token_ids(self.model, read_text(text) if isinstance(text, os.PathLike) else text)
            self._folder = stack.enter_context(TemporaryDirectory(prefix="quantreg-"))
            self._stack = stack.pop_all()
        self._base: BaseFile | None = None
        self.measures: list[TextMeasure] = []

    def begin(self, types: int, report: "Report | None") -> None:
        """Evaluate the model as it is. ``types`` is how many others will follow. Raises what `perplexity` raises."""
        path = os.path.join(self._folder, "base")
        self._types = types
        self.itself = perplexity(
            self.model, self._ids, n_ctx=self._n_ctx, chunks=self._chunks, save_base=path, threads=self._threads,
            progress=self._listen(ITSELF, report),
        )  # fmt: skip
        self._done = self.itself.chunks
        self._base = self._stack.enter_context(BaseFile(path))

    def measure(self, target: Target, matrices: "Callable[[str], Matrices]", report: "Report | None") -> TextMeasure:
        """Give the model the weights of a target, and compare its predictions with those of the model as it is.

        ``matrices`` gives a tensor with its importance. Raises whatever a codec or a pass raises.
        """
        assert self._base is not None  # begin was called
        self._done = self.itself.chunks * (1 + len(self.measures))

        def tell(name: str) -> None:
            if report:
                report(name, target.name, self._done, self._total)

        encodings = target.encodings()
        encoded, beside = _encoded(encodings, matrices, tell, self._threads)
        if encodings and not encoded:
            raise PlanError(f"no tensor of the model could be encoded in {target.name}, so there is nothing to compare")
        with self.model.replaced(encoded) as changed:
            found = kl_divergence(
                changed, self._base, chunks=self._chunks, threads=self._threads,
                progress=self._listen(target.name, report),
            )  # fmt: skip
            size = beside + sum(tensor.nbytes for tensor in changed.tensors.values())
            weights = sum(math.prod(tensor.shape) for tensor in changed.tensors.values())
        measure = TextMeasure(target.name, size * 8 / weights, target.file_type, found)
        self.measures.append(measure)
        return measure

    def _listen(self, type_name: str, report: "Report | None") -> "Callable[[Started | ChunkDone], object] | None":
        from quantreg.quality import ChunkDone

        if report is None:
            return None

        def listen(event: "Started | ChunkDone") -> None:
            self._total = event.chunks * (1 + self._types)
            chunk = event.chunk if isinstance(event, ChunkDone) else 0
            report(
                f"chunk {min(chunk + 1, event.chunks)} of {event.chunks}", type_name, self._done + chunk, self._total
            )

        return listen

    def result(self) -> TextResult:
        """The figures of all types so far."""
        itself = self.itself
        return TextResult(
            self.name, itself.chunks, itself.n_ctx, itself.perplexity, itself.perplexity_error, tuple(self.measures)
        )

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def _encoded(
    encodings: Iterable[Encoding],
    matrices: "Callable[[str], Matrices]",
    tell: Callable[[str], None],
    threads: int | None,
) -> tuple[dict[str, QuantizedTensor], int]:
    """Encode whole tensors, each in its type. Return them, and the size of their parameters in bytes.

    A tensor that its type cannot encode without importance is left out.
    """
    of_model: dict[QuantType, Fitted] = {}
    chosen = [entry for entry in encodings if _can_encode(entry, matrices(entry.tensor))]
    result, beside = {}, 0
    for name, qtype, importance, fits, _ in chosen:
        tell(name)
        source = matrices(name)
        parameters: Fitted | None = None
        if fits and qtype.parameters is not None:
            if qtype.parameters.scope == "tensor":
                parameters = source.fit(qtype, importance)
                beside += parameter_bytes(parameters)
            else:
                if qtype not in of_model:
                    theirs = ((matrices(other.tensor), other.importance) for other in chosen if other.qtype is qtype)
                    context = TensorContext(None, (), source.context.metadata)
                    of_model[qtype] = fit_model(qtype, theirs, context)
                    beside += parameter_bytes(of_model[qtype])
                parameters = of_model[qtype]
        columns = _columns(source) if importance else None
        weights = source.tensor.dequantize()
        data = quantize(weights, qtype, columns, threads, tensor=name, parameters=parameters)
        result[name] = QuantizedTensor(name, source.tensor.shape, qtype, data, parameters)
    return result, beside


def _can_encode(entry: Encoding, source: Matrices) -> bool:
    have = entry.importance and source.importance is not None
    return have or not (entry.needs_importance or entry.qtype.requires_importance)


def _columns(source: Matrices) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None":
    """The importance of a tensor as `quantize` takes it: (cols,), or (experts, cols) for a stack."""
    found = source.importance
    return found if found is None or len(source.tensor.shape) > 2 else found[0]
