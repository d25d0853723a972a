"""Rows of matrices, as work that stands alone, and what it costs."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.inference.model import Model
from quantreg.names import layer_of
from quantreg.parameters import TensorContext
from quantreg.products import one_blas_thread
from quantreg.registry import types
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.encoding import Across, Part, encode_rows
from quantreg.tuning.feedback import Factor
from quantreg.tuning.statistics import HELD_OUT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.parameters import Fitted
    from quantreg.tuning.across import Step

    Floats = NDArray[np.float32]

__all__ = ["Basis", "Cost", "Progress", "Rows", "Runner"]

OVERHEAD = 22_000  # multiplications in whose time a weight is encoded, apart from products
ROUNDS = 4.5  # products of the rows with H: half of one for feedback, and one for each sweep
UNIT = 1_000_000  # multiplications


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` is over: work in millions of multiplications, roughly."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Basis:
    """What the rows of a matrix are encoded with: the factor of H, the importance of columns, and held-out inputs.

    ``across`` is None unless the matrix makes up for those before it.
    """

    factor: Factor
    importance: "Floats"
    held_out: "Floats"
    across: Across | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows [first, last) of one matrix of a tensor, which become the type ``to``.

    ``basis`` is what `Runner.keep` has made of a `Basis`. ``parameters`` are those that the type fitted to the tensor,
    and ``context`` is for types that ask for it.
    """

    name: str
    matrix: int
    first: int
    last: int
    to: str
    basis: Any
    parameters: "Fitted | None"
    context: TensorContext | None

    def encode(self, w: "Floats", basis: Basis) -> Part:
        """Encode these rows, float32 (rows, cols)."""
        with one_blas_thread():
            return encode_rows(
                w, self.first, types[self.to], self.name, basis.factor, basis.importance, basis.held_out,
                self.parameters, self.context, basis.across,
            )  # fmt: skip


class Runner:
    """Encodes rows on the threads of a model. A subclass may do it elsewhere."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def keep(self, basis: Basis) -> Any:
        """Take over what rows need. The result stands for it in `Rows`."""
        return basis

    def run(self, items: "Iterable[Rows | float]") -> "Generator[tuple[Rows | None, Any], None, None]":
        """Yield (rows, their `Part`) in order, and (None, item) for each item that is not `Rows`, where it stands.

        Rows up to such an item may be encoded together.
        """
        waiting: list[Rows] = []
        for item in items:
            if isinstance(item, Rows):
                waiting.append(item)
                continue
            yield from self._all(waiting)
            waiting.clear()
            yield None, item
        yield from self._all(waiting)

    def _all(self, waiting: list[Rows]) -> "Iterator[tuple[Rows | None, Any]]":
        if self._model.threads == 1 or len(waiting) < 2:
            for rows in waiting:
                yield rows, self._encoded(rows)
            return
        pool = ThreadPoolExecutor(self._model.threads, thread_name_prefix="quantreg-rows")
        try:  # each is told when it is done, and not when all are
            yield from zip(list(waiting), pool.map(self._encoded, waiting), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def _encoded(self, rows: Rows) -> Part:
        tensor = self._model.tensors[rows.name]
        place = slice(rows.first, rows.last)
        w = tensor[rows.matrix, place] if tensor.ndim == 3 else tensor[place]
        with np.errstate(all="ignore"):  # threads do not inherit what the caller set
            return rows.encode(np.ascontiguousarray(w, np.float32), rows.basis)


class Cost:
    """What passes and feedback cost, so that progress is in proportion to time. Estimated from shapes alone.

    ``todo`` says how often each tensor is encoded, and ``embeddings`` how often the embeddings are. ``steps`` are those
    of feedback across layers.
    """

    of_embeddings: float

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        todo: Mapping[str, int],
        embeddings: int = 0,
        steps: "Sequence[Step] | None" = None,
    ) -> None:
        self._shapes = {name: model.tensors[name].shape for name in todo}
        fit = calibration.part("fit").size
        decide = calibration.part("decide").size
        self._decide = min(decide, HELD_OUT)
        self._rounds, self._checks = (ROUNDS, 3) if steps is None else (ROUNDS + 3, 5)
        self._passes = dict.fromkeys(range(model.n_layers + 1), 0.0)  # for each token
        self._statistics = dict.fromkeys(self._passes, 0.0)
        experts = max(model.facts.experts_used, default=0) or 1
        for name, tensor in model.tensors.items():
            layer = layer_of(name)
            if layer in self._passes and len(tensor.shape) > 1:
                used = min(experts, tensor.shape[0]) if len(tensor.shape) == 3 else 1
                self._passes[layer] += used * tensor.shape[-2] * tensor.shape[-1]
        for name, shape in self._shapes.items():
            layer = layer_of(name)
            used = experts if len(shape) == 3 else 1
            # The upper half of X^T X, and two matrices share it.
            self._statistics[model.n_layers if layer is None else layer] += used * shape[-1] ** 2 / 4
        feedback = sum(todo[name] * self._of(shape, int(np.prod(shape[:-1]))) for name, shape in self._shapes.items())
        passes = sum(self.of_pass(layer, fit + decide) for layer in self._passes)
        if steps is not None:
            passes = sum(step.tokens * step.cost for step in steps)
        # Each exponent is tried on the tokens that decide, and there are the model as it is and ordinary bytes.
        runs = decide * sum(self._passes.values()) * 5
        shape = model.tensors["token_embd.weight"].shape
        self.of_embeddings = runs + self._of(shape, shape[0])
        self._done, self._total = 0.0, max(1.0, passes + feedback + self.of_embeddings * embeddings)

    def of_pass(self, layer: int, tokens: int) -> float:
        """Tokens through one layer."""
        return tokens * (self._passes[layer] + self._statistics[layer])

    def of(self, rows: Rows) -> float:
        """Feedback for some rows."""
        return self._of(self._shapes[rows.name], rows.last - rows.first)

    def _of(self, shape: tuple[int, ...], rows: int) -> float:
        return rows * shape[-1] * (self._rounds * shape[-1] + OVERHEAD + self._checks * self._decide)

    def add(self, cost: float) -> Progress:
        """So much more is done."""
        self._done = min(self._done + cost, self._total)
        return self.now

    @property
    def now(self) -> Progress:
        """How far it is."""
        total = max(1, round(self._total / UNIT))
        return Progress(min(round(self._done / UNIT), total), total)
