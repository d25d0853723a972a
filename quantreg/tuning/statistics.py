"""What the inputs of each matrix look like while the calibration text runs through a model, layer by layer."""

import math
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from quantreg.inference.model import Model
from quantreg.inference.passes import Pass
from quantreg.products import one_blas_thread
from quantreg.storage import reserve
from quantreg.tuning.calibration import Calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["Inputs", "Listener", "Seen", "States", "add_outer", "importance_of", "layers", "mirror", "walk"]

BATCH = 2048  # tokens that go through a layer at once
STRIP = 512  # columns of H per piece of work; the pieces, and so the sums, do not depend on the threads
HELD_OUT = 2048  # tokens of the part that decides whose inputs are kept
FEW = 64  # held-out inputs of an expert, below which those of others count, too
LARGEST = 1e15  # of an input: products of larger ones overflow
MEMORY = 1 << 30  # bytes of hidden states; more go to a file


@dataclass(slots=True)
class Inputs:
    """The inputs of matrices that share them.

    - ``h``: X^T X over the tokens that fit, float32 (cols, cols), or (experts, cols, cols) for a stack.
    - ``count``: how many tokens those are, int64 (1,) or (experts,).
    - ``held_out``: inputs of tokens that decide, float32 (tokens, cols); of a stack a list with one array per expert.
    - ``drift``, ``as_it_is``: with X for the inputs in the model as it is, and Y for those in the model quantized so
      far, which the other fields are about: (X - Y)^T Y, of the shape of ``h``; and X for the tokens that decide. None
      and empty if there is but one model.

    If an input that fits is NaN, infinite or so large that its square overflows, ``h`` is not finite. Those that decide
    are left out.
    """

    h: "Floats"
    count: "NDArray[np.int64]"
    held_out: "list[Floats]" = field(default_factory=list)
    drift: "Floats | None" = None
    as_it_is: "list[Floats]" = field(default_factory=list)

    def shrunk(self, matrix: int, together: "Floats | None", sums: "Floats | None" = None) -> "Floats":
        """H of one matrix, or the same of other ``sums``. That of an expert is drawn towards H of all, ``together``, by
        as many tokens as columns.
        """
        own: Floats = (self.h if sums is None else sums)[matrix]
        if together is None:
            return own
        return own + together * np.float32(len(own) / max(1, int(self.count.sum())))

    def together(self, sums: "Floats | None" = None) -> "Floats | None":
        """H of all experts of a stack, or the same of other ``sums``, float32 (cols, cols), without those whose inputs
        overflow; None for a matrix.
        """
        each: Floats = self.h if sums is None else sums
        if len(each) == 1:
            return None
        total = np.zeros_like(each[0])
        for own in each:
            if np.isfinite(own).all():
                total += own
        return total

    def to_decide(self, matrix: int) -> "Floats":
        """The inputs that decide about a matrix. An expert that saw few of them borrows some of other experts."""
        return _borrowing(self.held_out, matrix)

    def as_it_is_to_decide(self, matrix: int) -> "Floats":
        """The same tokens in the model as it is."""
        return _borrowing(self.as_it_is, matrix)


def _borrowing(inputs: "list[Floats]", matrix: int) -> "Floats":
    found = inputs[matrix]
    for number, other in enumerate(inputs):
        if len(found) >= FEW:
            break
        if number != matrix:
            found = np.concatenate([found, other[: FEW - len(found)]])
    return found


def importance_of(h: "Floats", count: int) -> "Floats":
    """The mean square of each column, float32 (cols,), from H of so many tokens; ones if some overflow."""
    diagonal: Floats = np.ascontiguousarray(np.diagonal(h)) / np.float32(max(1, count))
    return diagonal if np.isfinite(diagonal).all() else np.ones_like(diagonal)


class Listener(Protocol):
    """Sees the inputs of all matrices while the tokens that fit go through a model."""

    def observe(self, name: str, x: "Floats", experts: "NDArray[np.intp] | None") -> None:
        """See the input of a matrix, as the callback of a `Model` does."""

    def keep(self) -> None:
        """Some tokens have gone through a layer."""


@dataclass(slots=True)
class Seen:
    """What one layer saw: ``inputs`` by their first matrix, and in ``same`` the first one for each matrix."""

    inputs: "dict[str, Inputs]"
    same: dict[str, str]


class _Watch:
    """Collects the inputs of one layer. `observe` is the callback of a `Model`."""

    def __init__(self, model: Model, only: "Collection[str] | None" = None) -> None:
        self.inputs: dict[str, Inputs] = {}  # by the first matrix that has them
        self.same: dict[str, str] = {}  # matrix -> the first one with the same inputs
        self.listener: Listener | None = None
        self.fitting = True
        self._model, self._only = model, only
        self._sums: dict[str, Any] = {}  # on the device, if it adds them up
        self._last: tuple[object, object, str] | None = None

    def observe(self, name: str, x: "Floats", experts: "NDArray[np.intp] | None") -> None:
        if self.fitting and self.listener is not None:
            self.listener.observe(name, x, experts)
        if self._only is not None and name not in self._only:
            return
        last = self._last
        if last is not None and last[0] is x and last[1] is experts:
            self.same[name] = last[2]
            return
        self._last = x, experts, name
        self.same[name] = name
        cols = x.shape[-1]
        if experts is None:
            self._add(name, 1, [(0, x.reshape(-1, cols))])
            return
        k = experts.shape[-1] if experts.ndim > 1 else 1
        rows, ids = x.reshape(-1, cols), experts.reshape(-1)
        places = np.arange(len(ids)) if len(rows) == len(ids) else np.arange(len(ids)) // k
        parts = [(int(e), rows[places[ids == e]]) for e in np.unique(ids)]
        self._add(name, self._model.tensors[name].shape[0], parts)

    def _add(self, name: str, n: int, parts: "list[tuple[int, Floats]]") -> None:
        cols = parts[0][1].shape[1]
        if name not in self.inputs:
            none = [np.empty((0, cols), np.float32) for _ in range(n)]
            self.inputs[name] = Inputs(np.zeros((n, cols, cols), np.float32), np.zeros(n, np.int64), none)
            self._sums[name] = self._model.device.sums(n, cols)
        inputs = self.inputs[name]
        for expert, x in parts:
            if self.fitting:
                if self._sums[name] is None:
                    add_outer(self._model, inputs.h[expert], x)
                else:
                    self._sums[name].add(expert, x)
                inputs.count[expert] += len(x)
            else:
                left = HELD_OUT - len(inputs.held_out[expert])
                if left > 0:
                    usable = x[(abs(x) < LARGEST).all(axis=1)]
                    inputs.held_out[expert] = np.concatenate([inputs.held_out[expert], usable[:left]])

    def close(self) -> Seen:
        """What was seen, with H whole."""
        for name, inputs in self.inputs.items():
            sums = self._sums.pop(name)
            if sums is not None:
                inputs.h = sums.result()
                continue
            mirror(inputs.h)
        return Seen(self.inputs, self.same)


def add_outer(model: Model, h: "Floats", x: "Floats", left: "Floats | None" = None) -> None:
    """Add x^T x to h, of which only the upper part is filled; or left^T x, if that is given, to all of h."""
    x = np.ascontiguousarray(x)
    whole = x if left is None else np.ascontiguousarray(left)

    def strip(first: int) -> None:
        last = min(first + STRIP, x.shape[1])
        start = first if left is None else 0
        with np.errstate(all="ignore"):
            h[first:last, start:] += whole[:, first:last].T @ x[:, start:]

    model.workers(strip, list(range(0, x.shape[1], STRIP)))


def mirror(sums: "Floats") -> None:
    """Fill the lower parts of matrices (n, cols, cols) from their upper parts."""
    for h in sums:
        for first in range(0, len(h), STRIP):
            last = min(first + STRIP, len(h))
            h[last:, first:last] = h[first:last, last:].T


def layers(
    model: Model, calibration: Calibration, only: "Collection[str] | None" = None
) -> "Iterator[tuple[int, dict[str, Inputs], dict[str, str]]]":
    """Take the text through the model, layer by layer; yield what each layer saw. See `walk`.

    Yields (layer, inputs by their first matrix, the first matrix for each matrix).
    """
    for layer, found in walk(model, calibration, only):
        if isinstance(found, Seen):
            yield layer, found.inputs, found.same


def walk(
    model: Model,
    calibration: Calibration,
    only: "Collection[str] | None" = None,
    listener: Listener | None = None,
) -> "Iterator[tuple[int, Seen | int]]":
    """Take the text through the model, layer by layer; yield how far it is, and what each layer saw.

    Yields (layer, tokens that went through it) for each batch, and then (layer, `Seen`). After the last layer comes
    the output matrix, with the number of layers in place of its own. The hidden states are those of the model as it is.
    Statistics are taken of the matrices ``only``, by default of all. Raises OutputError if the states find no room on
    the disk.
    """
    batches = [(True, part) for part in calibration.batches("fit", BATCH)]
    batches += [(False, part) for part in calibration.batches("decide", BATCH)]
    with one_blas_thread(), tempfile.TemporaryFile() as spill:
        states = States(model, [part.size for _, part in batches], spill)
        passes: list[tuple[bool, Pass]] = []
        for i, (fitting, ids) in enumerate(batches):
            x, run = model.begin(ids)
            states.put(i, x)
            passes.append((fitting, run))
        for layer in range(model.n_layers + 1):
            watch = _Watch(model, only)
            watch.listener = listener
            for i, (fitting, run) in enumerate(passes):
                watch.fitting, run.observe = fitting, watch.observe
                x = states.take(i)
                if layer < model.n_layers:
                    states.put(i, model.through(layer, x, run))
                else:
                    watch.observe(model.output_name, model.finish(x, run), None)
                run.observe = None
                if fitting and listener is not None:
                    listener.keep()
                yield layer, batches[i][1].size
            seen = watch.close()
            del watch  # who takes H lets go of it
            yield layer, seen
            del seen


class States:
    """Hidden states of batches of so many tokens: float32, in memory or, if they are many, in a file.

    Raises OutputError if they find no room on the disk.
    """

    def __init__(self, model: Model, tokens: Sequence[int], spill: IO[bytes]) -> None:
        self._places = np.cumsum([0, *tokens]) * _widest(model)
        self._shapes: list[tuple[int, ...]] = [()] * len(tokens)
        size = int(self._places[-1])
        self._values: Floats
        if size * 4 <= MEMORY:
            self._values = np.empty(size, np.float32)
        else:
            reserve(spill, size * 4, "the hidden states of the calibration text")
            self._values = np.memmap(spill, np.float32, "w+", shape=(size,))

    def put(self, batch: int, x: "Floats") -> None:
        """Keep the states of a batch."""
        self._shapes[batch] = x.shape
        self._values[self._places[batch] :][: x.size] = x.reshape(-1)

    def take(self, batch: int) -> "Floats":
        """A copy of the states of a batch."""
        shape = self._shapes[batch]
        return np.array(self._values[self._places[batch] :][: math.prod(shape)]).reshape(shape)


def _widest(model: Model) -> int:
    """How many values the states of a token have at most: some models send several streams through their layers."""
    x, run = model.begin(np.zeros((1, 1), np.intp))
    run.dry = True
    found = x.size
    for layer in range(model.n_layers):
        x = model.through(layer, x, run)
        found = max(found, x.size)
    return found
