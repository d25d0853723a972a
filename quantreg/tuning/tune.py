"""Encode the matrices of a model with error feedback, layer by layer."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.model import Model
from quantreg.parameters import TensorContext
from quantreg.products import one_blas_thread
from quantreg.qtype import QuantType
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.embeddings import encode_embeddings
from quantreg.tuning.encoding import Encoded, Part, fitted, joined, row_spans
from quantreg.tuning.feedback import Factor, factor
from quantreg.tuning.rows import Basis, Cost, Progress, Rows, Runner
from quantreg.tuning.statistics import Inputs, Listener, Seen, importance_of, walk
from quantreg.tuning.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["Progress", "Tuned", "tune"]

EMBEDDINGS = ("token_embd.weight",)  # whose rows go into the residual stream

NO_TOKEN = "no token of the text gets there"


@dataclass(frozen=True, slots=True)
class Tuned:
    """What error feedback did to one tensor.

    - ``name``, ``type``: of the tensor, and what it becomes.
    - ``plain``, ``tuned``: the error of its outputs on held-out tokens, relative to them, with the ordinary bytes and
      with feedback. ``tuned`` is None if there was no feedback.
    - ``kept``: how many of its matrices keep the feedback, ``matrices``: of how many.
    - ``reason``: why it, or some of its matrices, have the ordinary bytes, or None.
    """

    name: str
    type: str
    plain: float
    tuned: float | None
    kept: int
    matrices: int
    reason: str | None = None


def tune(
    model: Model,
    calibration: Calibration,
    wanted: Mapping[str, QuantType],
    store: Store,
    runner: Runner | None = None,
    listener: Listener | None = None,
) -> Iterator[Tuned | Progress]:
    """Encode tensors with feedback and put them into the store; yield what became of each, and how far the work is.

    ``wanted`` maps names of tensors to the types that they become. A tensor that is in the store already is left as it
    is. Embeddings come last. Other tensors that no matrix product reads are not touched. ``runner`` encodes the rows of
    matrices, by default on the threads of the model. ``listener`` is that of `quantreg.tuning.statistics.walk`.
    """
    names = [name for name in wanted if name not in store and name in model.tensors]
    embeddings = [name for name in names if name in EMBEDDINGS and name != model.output_name]
    todo = {n: wanted[n] for n in names if model.tensors[n].ndim in (2, 3) and n not in embeddings}
    cost = Cost(model, calibration, todo, embeddings)
    yield cost.now
    if todo or listener is not None:
        yield from _matrices(model, calibration, todo, store, runner or Runner(model), cost, listener)
    for name in embeddings:
        one = encode_embeddings(model, calibration, name, wanted[name])
        done = Tuned(name, wanted[name].name, one.plain, one.tuned, int(one.kept), 1, one.reason)
        store.put(name, one.tensor.data, one.tensor.parameters, asdict(done))
        yield done
        yield cost.add(cost.of_embeddings)


def _matrices(
    model: Model,
    calibration: Calibration,
    todo: Mapping[str, QuantType],
    store: Store,
    runner: Runner,
    cost: Cost,
    listener: Listener | None,
) -> Iterator[Tuned | Progress]:
    """Encode the matrices, layer by layer."""
    parts: dict[str, list[Part]] = {}
    matrices: dict[str, list[Encoded]] = {}
    with (
        one_blas_thread(),
        closing(_rows(model, calibration, todo, runner, cost, listener)) as rows_of_all,
        closing(runner.run(rows_of_all)) as done,
    ):
        for rows, part in done:
            if rows is None:
                if part:
                    yield cost.add(part)
                continue
            yield cost.add(cost.of(rows))
            tensor, name = model.tensors[rows.name], rows.name
            parts.setdefault(name, []).append(part)
            if rows.last < tensor.shape[-2]:
                continue
            matrices.setdefault(name, []).append(joined(parts.pop(name)))
            if tensor.ndim == 3 and rows.matrix < tensor.shape[0] - 1:
                continue
            all_of_it = matrices.pop(name)
            one = _summary(name, todo[name], [(m.plain, m.tuned, m.kept, m.reason) for m in all_of_it])
            store.put(name, np.stack([matrix.data for matrix in all_of_it]), rows.parameters, asdict(one))
            yield one


def _rows(
    model: Model,
    calibration: Calibration,
    todo: Mapping[str, QuantType],
    runner: Runner,
    cost: Cost,
    listener: Listener | None,
) -> "Generator[Rows | float, None, None]":
    """Yield the rows of all tensors, and in between the cost of what was done for them."""
    for layer, found in walk(model, calibration, frozenset(todo), listener):
        if not isinstance(found, Seen):
            yield cost.of_pass(layer, found)
            continue
        while found.inputs:  # H of a layer is let go of as soon as it has served
            leader = next(iter(found.inputs))
            names = [name for name, first in found.same.items() if first == leader]
            yield from _group(model, names, found.inputs.pop(leader), todo, runner)


def _group(
    model: Model, names: list[str], shared: Inputs, todo: Mapping[str, QuantType], runner: Runner
) -> "Generator[Rows | float, None, None]":
    """The rows of tensors that share their inputs: one factor for each matrix serves all of them."""
    tensors = {name: model.tensors[name] for name in names}
    parameters = {
        name: fitted(tensor.dequantize(), todo[name], importance_of(shared.h[0], int(shared.count[0])), name)
        for name, tensor in tensors.items()
        if todo[name].parameters is not None
    }
    together = shared.together()
    for matrix in range(len(shared.h)):
        h = shared.shrunk(matrix, together)
        factored = (
            factor(h, workers=model.workers, device=model.device) if shared.count[matrix] else Factor(h, h, NO_TOKEN)
        )
        importance = importance_of(h, int(shared.count[matrix]))
        basis = runner.keep(Basis(factored, importance, shared.to_decide(matrix)))
        del h, factored
        for name, tensor in tensors.items():
            context = TensorContext(name, tensor.shape, model.metadata, matrix) if todo[name].by_matrix else None
            for first, last in row_spans(*tensor.shape[-2:]):
                yield Rows(name, matrix, first, last, todo[name].name, basis, parameters.get(name), context)
        del basis
        yield 0  # nothing of this matrix is to come


def _summary(name: str, qtype: QuantType, figures: "list[tuple[float, float | None, bool, str | None]]") -> Tuned:
    plain = float(np.mean([before for before, *_ in figures]))
    after = [before if tuned is None or not kept else tuned for before, tuned, kept, _ in figures]
    kept = sum(kept for _, _, kept, _ in figures)
    none = all(tuned is None for _, tuned, _, _ in figures)
    reason = next(why for *_, why in figures) if not kept else None
    missed = sum(why == NO_TOKEN for *_, why in figures)
    if missed:
        reason = (
            NO_TOKEN if missed == len(figures) else f"no token of the text gets to {missed} of {len(figures)} matrices"
        )
    return Tuned(name, qtype.name, plain, None if none else float(np.mean(after)), kept, len(figures), reason)
