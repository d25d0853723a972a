"""The inputs of each matrix in the model as it is, and in the model whose earlier matrices are encoded already.

A matrix can make up for what those before it got wrong, if it is encoded after them. So two sets of hidden states go
through the layers: those of the model as it is, and those of the model quantized so far. With X and Y for the inputs of
a matrix W in either, feedback takes Y^T Y in place of X^T X, and its target moves from W towards the matrix that makes
the outputs X W^T out of Y: W + W (X - Y)^T Y (Y^T Y)^-1.
"""

import math
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from quantreg.inference.model import Model
from quantreg.inference.passes import Pass
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.statistics import (
    BATCH,
    HELD_OUT,
    LARGEST,
    Inputs,
    Listener,
    Seen,
    States,
    add_outer,
    mirror,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ids = NDArray[np.intp]
    _Input: TypeAlias = tuple[Floats, Ids | None]

__all__ = ["Both", "Step", "steps"]

ENOUGH = 16384  # tokens that fit, of which all show the drift


class Step(NamedTuple):
    """The text goes through a layer, or through a part of it.

    - ``layer``: its number; the output matrix has the number of layers.
    - ``groups``: the matrices whose inputs are wanted. Those of a group have the same inputs. If there are none, the
      states of the quantized model go to the next layer.
    - ``before``: the matrices that the layer has read by then.
    - ``ends``: whether the states of the model as it is go to the next layer.
    - ``alone``: whether only those tokens take it that go through the model as it is alone, or only the others.
    - ``cost``: multiplications for each token. ``tokens``: how many take it.
    """

    layer: int
    groups: tuple[tuple[str, ...], ...]
    before: tuple[str, ...]
    ends: bool
    cost: float
    alone: bool = False
    tokens: int = 0


class _Batch(NamedTuple):
    """Tokens that go through a layer at once: whether they fit or decide, and whether through one model ``alone``."""

    ids: "NDArray[np.int32]"
    fits: bool
    alone: bool


def _batches(calibration: Calibration) -> list[_Batch]:
    """All tokens that fit and decide. Of a long text, half of those that fit show no drift, to save time."""
    halves = calibration.part("fit").size > ENOUGH
    fit = [_Batch(ids, True, halves and i % 2 == 1) for i, ids in enumerate(calibration.batches("fit", BATCH))]
    return fit + [_Batch(ids, False, False) for ids in calibration.batches("decide", BATCH)]


def steps(model: Model, calibration: Calibration, wanted: Collection[str], listens: bool) -> list[Step]:
    """All steps in which the inputs of the matrices ``wanted`` are found, in their order.

    Each group has a step of its own, because matrices also make up for those before them in their layer. A layer that
    reads a matrix twice takes one step. ``listens``: whether somebody sees all inputs of the model as it is.
    """
    layers = list(_traced(model))
    needed = [i for i, seen in enumerate(layers) if listens or any(name in wanted for name, *_ in seen)]
    found: list[Step] = []
    for layer in range(max(needed, default=-1) + 1):
        found += _steps_of(model, layer, layers[layer], wanted, leaves=layer < needed[-1])
    batches = _batches(calibration)
    tokens = {alone: sum(batch.ids.size for batch in batches if batch.alone == alone) for alone in (False, True)}
    return [step._replace(tokens=tokens[step.alone]) for step in found if tokens[step.alone]]


def _traced(model: Model) -> "Iterator[list[tuple[str, Floats, Ids | None]]]":
    """What a pass reads in each layer, and as the output: (matrix, input, experts). Nothing is computed."""
    x, run = model.begin(np.zeros((1, 1), np.intp))
    run.dry = True
    for layer in range(model.n_layers):
        seen: list[tuple[str, Floats, Ids | None]] = []
        run.observe = lambda name, x, experts, seen=seen: seen.append((name, x, experts))
        x = model.through(layer, x, run)
        yield seen
    yield [(model.output_name, x, None)] if model.graph.generates else []


def _steps_of(model: Model, layer: int, seen: "list[Any]", wanted: Collection[str], leaves: bool) -> list[Step]:
    """The steps of one layer. ``leaves``: whether states go on to the next one."""
    groups: list[list[str]] = []
    reached: list[tuple[int, float]] = []  # matrices that are read, and multiplications, before the inputs of a group
    statistics: list[float] = []
    done = 0.0
    last: Any = None, None
    names = tuple(name for name, *_ in seen)
    for place, (name, x, experts) in enumerate(seen):
        shape, used = model.tensors[name].shape, 1 if experts is None else experts.shape[-1]
        if name in wanted and name not in names[:place]:
            if groups and last[0] is x and last[1] is experts:
                groups[-1].append(name)
            else:
                groups.append([name])
                reached.append((place, done))
                statistics.append(1.5 * used * shape[-1] ** 2)  # the upper half of Y^T Y, and all of (X - Y)^T Y
                last = x, experts
        done += used * math.prod(shape[-2:])
    each = tuple(tuple(group) for group in groups)
    last_layer = layer == model.n_layers
    found = [Step(layer, each, (), True, (not last_layer) * done + sum(statistics) / 3, alone=True)]
    if last_layer:
        return [*found, Step(layer, each, (), True, sum(statistics))] if seen else []
    if groups and len(set(names)) < len(names):
        found.append(Step(layer, each, (), leaves, 2 * done + sum(statistics)))
    else:
        for i, (group, (place, reach), more) in enumerate(zip(each, reached, statistics, strict=True)):
            ends = leaves and i == len(each) - 1
            found.append(Step(layer, (group,), names[:place], ends, reach + (done if ends else reach) + more))
    if leaves:
        found.append(Step(layer, (), names, not groups, done if groups else 2 * done))
    return found


class Both:
    """The hidden states of the calibration text in a model as it is, and in the model quantized so far.

    ``embeddings`` are those of the second one, if they differ. ``listener`` sees the inputs of the first one.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        embeddings: Mapping[str, QuantizedTensor],
        listener: Listener | None,
        spill: IO[bytes],
    ) -> None:
        self._model, self._listener = model, listener
        batches = _batches(calibration)
        both = [batch for batch in batches if not batch.alone]
        self._states = States(model, [batch.ids.size for batch in (*batches, *both)], spill)
        self._passes: list[tuple[_Batch, _Place, _Place]] = []
        self._sums: dict[str, _Sums] = {}
        last = len(batches)
        with model.replaced(embeddings) as changed:
            for i, batch in enumerate(batches):
                x, run = model.begin(batch.ids)
                places = _Place(i, run), _Place(last, replace(run, shared={}))
                self._states.put(i, x)
                if not batch.alone:
                    self._states.put(last, changed.begin(batch.ids)[0])
                    last += 1
                self._passes.append((batch, *places))

    def take(self, step: Step, so_far: Mapping[str, QuantizedTensor]) -> "Generator[int, None, Seen]":
        """Take the text through a step; yield the tokens of each batch, and return what the matrices saw.

        ``so_far`` are those tensors of ``step.before`` that are encoded.
        """
        leaders = [group[0] for group in step.groups]
        sums = {leader: self._sums.pop(leader, _Sums(self._model, leader)) for leader in leaders}
        changed = self._model.replaced(so_far) if so_far else self._model
        for batch, place, other_place in self._passes:
            if batch.alone != step.alone:
                continue
            listener = self._listener if batch.fits and step.ends else None
            own, other = _Catch(leaders, listener), _Catch(leaders)
            if leaders or step.ends:
                self._through(self._model, step.layer, place, own, step.ends)
            if not step.alone:
                self._through(changed, step.layer, other_place, other, not leaders)
            for leader, each in sums.items():
                each.add(batch, own.caught[leader], None if step.alone else other.caught[leader])
            if listener is not None:
                listener.keep()
            yield batch.ids.size
        if step.alone:  # the step with the other tokens goes on with them
            self._sums |= sums
            return Seen({}, {})
        same = {name: group[0] for group in step.groups for name in group}
        return Seen({leader: each.close() for leader, each in sums.items()}, same)

    def _through(self, model: Model, layer: int, place: "_Place", catch: "_Catch", ends: bool) -> None:
        """Take states through a layer, and keep what they became; or to the last input that is wanted."""
        x = self._states.take(place.number)
        if layer == model.n_layers:
            catch.observe(model.output_name, model.finish(x, place.run), None)
            return
        place.run.observe, catch.stops = catch.observe, not ends
        try:
            self._states.put(place.number, model.through(layer, x, place.run))
        except _Enough:
            pass
        finally:
            place.run.observe = None


class _Place(NamedTuple):
    """The states of a batch in one of the models, by their number, and the pass that they belong to."""

    number: int
    run: Pass


class _Enough(Exception):  # noqa: N818
    """All inputs that are wanted were seen."""


class _Catch:
    """Keeps the inputs of some matrices. If it ``stops``, the pass ends with the last of them."""

    def __init__(self, names: Collection[str], listener: Listener | None = None) -> None:
        self.caught: dict[str, _Input] = {}
        self.stops = False
        self._names, self._listener = names, listener

    def observe(self, name: str, x: "Floats", experts: "Ids | None") -> None:
        if self._listener is not None:
            self._listener.observe(name, x, experts)
        if name in self._names and name not in self.caught:
            self.caught[name] = np.array(x), None if experts is None else np.array(experts)
        if self.stops and len(self.caught) == len(self._names):
            raise _Enough


class _Sums:
    """Adds up Y^T Y and (X - Y)^T Y for a matrix, or for each expert of a stack.

    Of tokens that go through the model as it is alone, X^T X counts in place of Y^T Y.
    """

    def __init__(self, model: Model, name: str) -> None:
        self._model, self._shape = model, model.tensors[name].shape
        self._inputs: Inputs | None = None
        self._there: tuple[Any, Any] = None, None  # the sums on the device, if it adds them up
        self._paired: NDArray[np.int64] = np.zeros(0, np.int64)  # of the tokens that count, those with X and Y

    def add(self, batch: _Batch, as_it_is: "_Input", changed: "_Input | None") -> None:
        """Add the inputs of some tokens, in the model as it is and in the quantized one."""
        (x, experts), (y, others) = as_it_is, changed or as_it_is
        cols = self._shape[-1]
        x, y = x.reshape(-1, cols), y.reshape(-1, cols)
        inputs = self._begun(1 if experts is None else self._shape[0], cols)
        for matrix, own, other in _pairs(x, experts, y, others):
            if batch.fits:
                self._fit(inputs, matrix, own, other, changed is not None)
            else:
                left = max(0, HELD_OUT - len(inputs.held_out[matrix]))
                usable = ((abs(own) < LARGEST) & (abs(other) < LARGEST)).all(axis=1)
                for kept, new in ((inputs.held_out, other), (inputs.as_it_is, own)):
                    kept[matrix] = np.concatenate([kept[matrix], new[usable][:left]])

    def _begun(self, n: int, cols: int) -> Inputs:
        if self._inputs is None:
            none = [np.empty((0, cols), np.float32) for _ in range(2 * n)]
            h, drift = np.zeros((2, n, cols, cols), np.float32)
            self._inputs = Inputs(h, np.zeros(n, np.int64), none[:n], drift, none[n:])
            self._paired = np.zeros(n, np.int64)
            device = self._model.device
            self._there = device.sums(n, cols), device.sums(n, cols, symmetric=False)
        return self._inputs

    def _fit(self, inputs: Inputs, matrix: int, x: "Floats", y: "Floats", paired: bool) -> None:
        h, drift = self._there
        inputs.count[matrix] += len(y)
        if h is None:
            add_outer(self._model, inputs.h[matrix], y)
        else:
            h.add(matrix, y)
        if not paired:
            return
        self._paired[matrix] += len(y)
        assert inputs.drift is not None
        with np.errstate(all="ignore"):
            difference = x - y
        if drift is None:
            add_outer(self._model, inputs.drift[matrix], y, difference)
        else:
            drift.add(matrix, y, difference)

    def close(self) -> Inputs:
        """The sums, with H whole, and with the drift of as many tokens as H."""
        inputs, (h, drift) = self._inputs, self._there
        assert inputs is not None
        assert inputs.drift is not None
        if h is None:
            mirror(inputs.h)
        else:
            inputs.h = h.result()
        if drift is not None:
            inputs.drift = drift.result()
        assert inputs.drift is not None
        for each, count, paired in zip(inputs.drift, inputs.count, self._paired, strict=True):
            if paired < count:
                each *= np.float32(count / max(1, paired))
        return inputs


def _pairs(
    x: "Floats", experts: "Ids | None", y: "Floats", others: "Ids | None"
) -> "Iterator[tuple[int, Floats, Floats]]":
    """The inputs of each expert in both models, row by row, of the tokens that reach it in the quantized one.

    ``experts`` and ``others``, (tokens,) or (tokens, k), are those that each token reaches in either model, or None if
    there is but one matrix. The inputs have a row for each token, or one for each token and expert. Where a token does
    not reach an expert in the model as it is, nothing is known of a difference, and its row there counts as the same.
    """
    if experts is None or others is None:
        yield 0, x, y
        return
    k = others.shape[-1] if others.ndim > 1 else 1
    ids = others.reshape(-1)
    tokens = np.arange(len(ids)) // k
    places = tokens
    if len(y) == len(ids):
        places = np.arange(len(ids))
        n = 1 + int(max(experts.max(), ids.max()))
        known, wanted = np.arange(experts.size) // k * n + experts.reshape(-1), tokens * n + ids
        order = np.argsort(known, kind="stable")
        at = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
        x = np.where((known[at] == wanted)[:, None], x[at], y)
    for expert in np.unique(ids):
        rows = places[ids == expert]
        yield int(expert), x[rows], y[rows]
