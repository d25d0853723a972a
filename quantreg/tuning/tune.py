"""Encode the matrices of a model with error feedback, layer by layer."""

import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from quantreg.inference.model import Model
from quantreg.parameters import TensorContext
from quantreg.products import one_blas_thread
from quantreg.qtype import QuantType
from quantreg.registry import types
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.across import Both, Step, steps
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.embeddings import encode_embeddings
from quantreg.tuning.encoding import Across, Encoded, Part, fitted, joined, row_spans
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
      with feedback. ``tuned`` is None if there was no feedback. Across layers, they include what the errors of earlier
      matrices do to the inputs.
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
    *,
    across_layers: bool = False,
) -> Iterator[Tuned | Progress]:
    """Encode tensors with feedback and put them into the store; yield what became of each, and how far the work is.

    ``wanted`` maps names of tensors to the types that they become. A tensor that is in the store already is left as it
    is. Other tensors that no matrix product reads are not touched. ``runner`` encodes the rows of matrices, by default
    on the threads of the model. ``listener`` is that of `quantreg.tuning.statistics.walk`. With ``across_layers``, the
    tensors are encoded in the order in which a pass reads them, and matrices make up for the errors of earlier ones.
    """
    job = Job(wanted, store)
    for one in tune_together(model, calibration, [job], runner, listener, across_layers=across_layers):
        yield one if isinstance(one, Progress) else one[1]


def tune_together(
    model: Model,
    calibration: Calibration,
    jobs: Sequence[Job],
    runner: Runner | None = None,
    listener: Listener | None = None,
    *,
    across_layers: bool = False,
) -> Iterator[tuple[int, Tuned] | Progress]:
    """Do what `tune` does for several jobs, while the text goes through the model once; yield (number of job, Tuned).

    H and its factor do not depend on the type. What two jobs want alike is encoded once. Neither holds
    ``across_layers``, where the text goes through a model that is quantized otherwise for each job.
    """
    works = [_Work(model, calibration, jobs, runner or Runner(model), listener)]
    if across_layers:
        works = [
            _Across(model, calibration, jobs, runner or Runner(model), None if number else listener, number)
            for number in range(len(jobs))
        ]
    done = 0
    total = sum(work.cost.now.total for work in works)
    for work in works:
        for one in work.run():
            yield Progress(done + one.done, total) if isinstance(one, Progress) else one
        done += work.cost.now.total


class _Work:
    """The tensors that some jobs want, and what encodes them."""

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        jobs: Sequence[Job],
        runner: Runner,
        listener: Listener | None,
        number: int | None = None,
    ) -> None:
        self.model, self.calibration, self.jobs = model, calibration, jobs
        self.runner, self.listener, self._number = runner, listener, number or 0
        self.todo: _ToDo = {}
        self.embeddings: _ToDo = {}
        for i in range(len(jobs)) if number is None else [number]:
            for name, qtype in jobs[i].wanted.items():
                if name in jobs[i].store or name not in model.tensors:
                    continue
                if name in EMBEDDINGS and name != model.output_name:
                    self.embeddings.setdefault(name, {}).setdefault(qtype.name, []).append(i)
                elif model.tensors[name].ndim in (2, 3):
                    self.todo.setdefault(name, {}).setdefault(qtype.name, []).append(i)
        self.cost = self._cost()

    def _cost(self, steps: Sequence[Step] | None = None) -> Cost:
        times = {name: len(each) for name, each in self.todo.items()}
        return Cost(self.model, self.calibration, times, sum(map(len, self.embeddings.values())), steps)

    def run(self) -> Iterator[tuple[int, Tuned] | Progress]:
        """Encode all tensors; yield (number of job, Tuned) and how far it is."""
        yield self.cost.now
        if self.todo or self.listener is not None:
            with one_blas_thread():
                yield from self._encoded(self._rows())
        yield from self._embeddings()

    def _embeddings(self) -> Iterator[tuple[int, Tuned] | Progress]:
        for name, each in self.embeddings.items():
            for to, numbers in each.items():
                one = encode_embeddings(self.model, self.calibration, name, types[to], self.runner)
                done = Tuned(name, to, one.plain, one.tuned, int(one.kept), 1, one.reason)
                for number in numbers:
                    self.jobs[number].store.put(name, one.tensor.data, one.tensor.parameters, asdict(done))
                    yield number, done
                yield self.cost.add(self.cost.of_embeddings)

    def _encoded(self, items: "Iterator[Rows | float]") -> Iterator[tuple[int, Tuned] | Progress]:
        """Encode rows, and put the matrices that are complete into the stores."""
        parts: dict[tuple[str, str], list[Part]] = {}
        matrices: dict[tuple[str, str], list[Encoded]] = {}
        with closing(items), closing(self.runner.run(items)) as done:  # type: ignore[type-var]
            for rows, part in done:
                if rows is None:
                    if part:
                        yield self.cost.add(part)
                    continue
                yield self.cost.add(self.cost.of(rows))
                tensor, key = self.model.tensors[rows.name], (rows.name, rows.to)
                parts.setdefault(key, []).append(part)
                if rows.last < tensor.shape[-2]:
                    continue
                matrices.setdefault(key, []).append(joined(parts.pop(key)))
                if tensor.ndim == 3 and rows.matrix < tensor.shape[0] - 1:
                    continue
                all_of_it = matrices.pop(key)
                one = _summary(rows.name, types[rows.to], [(m.plain, m.tuned, m.kept, m.reason) for m in all_of_it])
                data = np.stack([matrix.data for matrix in all_of_it])
                for number in self.todo[rows.name][rows.to]:
                    self.jobs[number].store.put(rows.name, data, rows.parameters, asdict(one))
                    yield number, one

    def _rows(self) -> "Generator[Rows | float, None, None]":
        """Yield the rows of all tensors, and in between the cost of what was done for them."""
        for layer, found in walk(self.model, self.calibration, frozenset(self.todo), self.listener):
            if isinstance(found, Seen):
                yield from self._of_all(found)
            else:
                yield self.cost.of_pass(layer, found)

    def _of_all(self, found: Seen) -> "Generator[Rows | float, None, None]":
        """The rows of all tensors whose inputs were seen."""
        while found.inputs:  # H of a layer is let go of as soon as it has served
            leader = next(iter(found.inputs))
            names = [name for name, first in found.same.items() if first == leader]
            yield from _group(self.model, names, found.inputs.pop(leader), self.todo, self.runner)


class _Across(_Work):
    """The tensors that one job wants, where matrices make up for the errors of earlier ones.

    A step begins when all tensors of the steps before it are in the store. An earlier run may have put them there.
    """

    def _cost(self, steps_: Sequence[Step] | None = None) -> Cost:
        self._steps = steps(self.model, self.calibration, self.todo, self.listener is not None)
        return super()._cost(self._steps)

    def run(self) -> Iterator[tuple[int, Tuned] | Progress]:
        yield self.cost.now
        yield from self._embeddings()
        if not self._steps:
            return
        with one_blas_thread(), tempfile.TemporaryFile() as spill:
            embeddings = self._tensors(name for name in EMBEDDINGS if name != self.model.output_name)
            both = Both(self.model, self.calibration, embeddings, self.listener, spill)
            for step in self._steps:
                taken = both.take(step, self._tensors(step.before))
                try:
                    while True:
                        yield self.cost.add(step.cost * next(taken))
                except StopIteration as end:
                    yield from self._encoded(self._of_all(end.value))

    def _tensors(self, names: Iterable[str]) -> dict[str, QuantizedTensor]:
        """Those of these tensors that are encoded."""
        job = self.jobs[self._number]
        found = {}
        for name in names:
            if name in job.store:
                data, parameters = np.fromfile(job.store[name], np.uint8), job.store.parameters(name)
                shape = self.model.tensors[name].shape
                found[name] = QuantizedTensor(name, shape, job.wanted[name].name, data, parameters)
        return found


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
    drift_together = None if shared.drift is None else shared.together(shared.drift)
    for matrix in range(len(shared.h)):
        h = shared.shrunk(matrix, together)
        factored = (
            factor(h, workers=model.workers, device=model.device) if shared.count[matrix] else Factor(h, h, NO_TOKEN)
        )
        importance = importance_of(h, int(shared.count[matrix]))
        across = _across(shared, matrix, drift_together, factored)
        basis = runner.keep(Basis(factored, importance, shared.to_decide(matrix), across))
        del h, factored, across
        for name, qtype in wanted:
            shape = tensors[name].shape
            context = TensorContext(name, shape, model.metadata, matrix) if qtype.by_matrix else None
            values = parameters.get((name, qtype.name))
            for first, last in row_spans(*shape[-2:]):
                yield Rows(name, matrix, first, last, qtype.name, basis, values, context)
        del basis
        yield 0  # nothing of this matrix is to come


def _across(shared: Inputs, matrix: int, together: "Floats | None", factored: Factor) -> Across | None:
    """What a matrix makes up for; None without a second model, or if there is no feedback."""
    if shared.drift is None or factored.reason is not None:
        return None
    drift = shared.shrunk(matrix, together, shared.drift)
    if not np.isfinite(drift).all():
        drift = np.zeros_like(drift)
    return Across(drift, shared.as_it_is_to_decide(matrix))


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
