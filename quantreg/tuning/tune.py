"""Encode the matrices of a model with error feedback, layer by layer."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from quantreg.inference.model import Model
from quantreg.parameters import TensorContext
from quantreg.products import one_blas_thread
from quantreg.qtype import QuantType
from quantreg.registry import types
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

__all__ = ["Job", "Progress", "Tuned", "tune", "tune_together"]

_ToDo: TypeAlias = dict[str, dict[str, list[int]]]  # name of a tensor -> name of a type -> numbers of jobs

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


class Job(NamedTuple):
    """Tensors to encode: the type that each becomes, by name, and where they go."""

    wanted: Mapping[str, QuantType]
    store: Store


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
    for one in tune_together(model, calibration, [Job(wanted, store)], runner, listener):
        yield one if isinstance(one, Progress) else one[1]


def tune_together(
    model: Model,
    calibration: Calibration,
    jobs: Sequence[Job],
    runner: Runner | None = None,
    listener: Listener | None = None,
) -> Iterator[tuple[int, Tuned] | Progress]:
    """Do what `tune` does for several jobs, while the text goes through the model once; yield (number of job, Tuned).

    H and its factor do not depend on the type. What two jobs want alike is encoded once.
    """
    todo: _ToDo = {}
    embeddings: _ToDo = {}
    for number, job in enumerate(jobs):
        for name, qtype in job.wanted.items():
            if name in job.store or name not in model.tensors:
                continue
            if name in EMBEDDINGS and name != model.output_name:
                embeddings.setdefault(name, {}).setdefault(qtype.name, []).append(number)
            elif model.tensors[name].ndim in (2, 3):
                todo.setdefault(name, {}).setdefault(qtype.name, []).append(number)
    last = [(name, to) for name, each in embeddings.items() for to in each]
    cost = Cost(model, calibration, {name: len(each) for name, each in todo.items()}, len(last))
    yield cost.now
    runner = runner or Runner(model)
    if todo or listener is not None:
        yield from _matrices(model, calibration, jobs, todo, runner, cost, listener)
    for name, to in last:
        one = encode_embeddings(model, calibration, name, types[to], runner)
        done = Tuned(name, to, one.plain, one.tuned, int(one.kept), 1, one.reason)
        for number in embeddings[name][to]:
            jobs[number].store.put(name, one.tensor.data, one.tensor.parameters, asdict(done))
            yield number, done
        yield cost.add(cost.of_embeddings)


def _matrices(
    model: Model,
    calibration: Calibration,
    jobs: Sequence[Job],
    todo: "_ToDo",
    runner: Runner,
    cost: Cost,
    listener: Listener | None,
) -> Iterator[tuple[int, Tuned] | Progress]:
    """Encode the matrices, layer by layer."""
    parts: dict[tuple[str, str], list[Part]] = {}
    matrices: dict[tuple[str, str], list[Encoded]] = {}
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
            tensor, key = model.tensors[rows.name], (rows.name, rows.to)
            parts.setdefault(key, []).append(part)
            if rows.last < tensor.shape[-2]:
                continue
            matrices.setdefault(key, []).append(joined(parts.pop(key)))
            if tensor.ndim == 3 and rows.matrix < tensor.shape[0] - 1:
                continue
            all_of_it = matrices.pop(key)
            one = _summary(rows.name, types[rows.to], [(m.plain, m.tuned, m.kept, m.reason) for m in all_of_it])
            data = np.stack([matrix.data for matrix in all_of_it])
            for number in todo[rows.name][rows.to]:
                jobs[number].store.put(rows.name, data, rows.parameters, asdict(one))
                yield number, one


def _rows(
    model: Model,
    calibration: Calibration,
    todo: "_ToDo",
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
    model: Model, names: list[str], shared: Inputs, todo: "_ToDo", runner: Runner
) -> "Generator[Rows | float, None, None]":
    """The rows of tensors that share their inputs: one factor for each matrix serves all of them, in all types."""
    tensors = {name: model.tensors[name] for name in names}
    wanted = [(name, types[to]) for name in tensors for to in todo[name]]
    parameters = {
        (name, qtype.name): fitted(
            tensors[name].dequantize(), qtype, importance_of(shared.h[0], int(shared.count[0])), name
        )
        for name, qtype in wanted
        if qtype.parameters is not None
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
        for name, qtype in wanted:
            shape = tensors[name].shape
            context = TensorContext(name, shape, model.metadata, matrix) if qtype.by_matrix else None
            values = parameters.get((name, qtype.name))
            for first, last in row_spans(*shape[-2:]):
                yield Rows(name, matrix, first, last, qtype.name, basis, values, context)
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
