"""The pieces of a run in order: slabs of each tensor, and where their results go in the files of each output."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from quantreg.errors import PlanError
from quantreg.importance import ImportanceMatrix
from quantreg.jobs.fitter import Fitter, little_endian
from quantreg.jobs.shards import OutputFile
from quantreg.jobs.slabs import SLAB_BYTES, ImportanceRow, Slab, Wanted, slabs_of
from quantreg.jobs.source import Source, stamp_of
from quantreg.loss import Loss
from quantreg.recipes import Plan, TensorPlan
from quantreg.registry import types
from quantreg.scores import BLOWN_UP_BY_ZEROS, mostly_zero
from quantreg.storage import AtomicFile

if TYPE_CHECKING:
    from quantreg.parameters import Fitted

__all__ = ["Output", "Piece", "Pieces", "Ready", "Write"]


class Ready(Protocol):
    """Tensors that are encoded already, by their names in the output: each is the path of a file of its bytes."""

    def __contains__(self, name: object) -> bool: ...
    def __getitem__(self, name: str) -> Path: ...

    def parameters(self, name: str) -> "Fitted | None":
        """What the type fitted to the tensor, or None."""
        ...


class Output(NamedTuple):
    """One output of a run: its plan, the files that it makes, and tensors that are encoded already, or None."""

    plan: Plan
    files: Sequence[OutputFile]
    ready: Ready | None = None

    def has_ready(self, name: str) -> bool:
        """Whether the tensor is encoded already."""
        return self.ready is not None and self.plan[name].converted and name in self.ready


@dataclass(slots=True)
class Write:
    """Where a result of a slab goes: number ``result`` of it, to the ``target`` of the output with number ``output``.

    ``loss`` is what encoding lost of it.
    """

    output: int
    tensor: str
    target: AtomicFile
    offset: int
    result: int
    loss: Loss = field(default_factory=Loss)


@dataclass(slots=True)
class Piece:
    """A slab of a tensor, or None if there is nothing to do, and where its bytes go.

    ``tensors`` is the tensor in each output. ``nbytes`` counts the bytes of the source that the piece finishes, and
    ``last`` marks the last piece of the tensor. ``blank`` is that of `Done`.
    """

    tensors: tuple[TensorPlan, ...]
    slab: Slab | None
    nbytes: int
    writes: Sequence[Write]
    last: bool = False
    blank: bool = False


class _Place(NamedTuple):
    """Where a tensor of an output goes."""

    tensor: TensorPlan
    target: AtomicFile
    offset: int

    @property
    def done(self) -> bool:
        """Whether an earlier run has written all of it."""
        return self.target.has(self.offset, self.tensor.bytes)


class Pieces:
    """All pieces of a run, as an iterable that can be used once. It writes the parameters that types fit.

    ``targets`` are the open files of each output. With ``by_path``, workers read the imatrix themselves, if it is a
    file. With ``check``, tensors that are only copied are searched for NaN and infinity.
    """

    def __init__(
        self,
        source: Source,
        outputs: Sequence[Output],
        targets: Sequence[Sequence[AtomicFile]],
        imatrix: ImportanceMatrix | None,
        *,
        by_path: bool,
        check: bool,
    ) -> None:
        self._source, self._outputs, self._imatrix, self._check = source, outputs, imatrix, check
        self._stamps = [stamp_of(path) for path in source.paths]
        self._begun: tuple[str, tuple[int, int]] | None = None  # the imatrix file as it was when the run began
        if by_path and imatrix is not None and imatrix.path is not None:
            self._begun = os.path.abspath(imatrix.path), stamp_of(imatrix.path)
        self._facts = [output.plan.facts(source.metadata) for output in outputs]
        self._fitters = [self._fitter(number) for number in range(len(outputs))]
        self._places: list[dict[str, _Place]] = []
        self._stored: list[dict[str, tuple[AtomicFile, int]]] = []
        for output, there in zip(outputs, targets, strict=True):
            pairs = list(zip(output.files, there, strict=True))
            self._places.append(
                {tensor.name: _Place(tensor, target, at) for file, target in pairs for tensor, at in file.tensors}
            )
            self._stored.append({stored.name: (target, at) for file, target in pairs for stored, at in file.parameters})

    def _fitter(self, number: int) -> Fitter:
        def cut(tensor: TensorPlan) -> Iterator[tuple[Slab, Any]]:
            return slabs_of([self._wanted(number, tensor)], self._source, self._stamps, self._check)

        return Fitter(self._source, self._outputs[number].plan, cut, self._facts[number])

    @property
    def source_bytes(self) -> int:
        """How many bytes the pieces finish: those of the source, once for each time that they are gone through."""
        return sum(place.tensor.source.nbytes * self._times(name) for name, place in self._places[0].items())

    def _times(self, name: str) -> int:
        ready = sum(output.has_ready(name) for output in self._outputs)
        return ready + (ready < len(self._outputs))

    def __iter__(self) -> Iterator[Piece]:
        for fitter, stored in zip(self._fitters, self._stored, strict=True):
            for name, values in fitter.of_model():
                target, at = stored[name]
                target.pwrite(values, at)
        for name in self._places[0]:  # the outputs have the same tensors
            piece: Piece | None = None
            for following in self._of_tensor(name):
                if piece is not None:
                    yield piece
                piece = following
            piece = piece or Piece(self._tensors(name), None, 0, ())
            piece.last = True
            yield piece

    def _tensors(self, name: str) -> tuple[TensorPlan, ...]:
        return tuple(places[name].tensor for places in self._places)

    def _of_tensor(self, name: str) -> Iterator[Piece]:
        encoded = [output.has_ready(name) for output in self._outputs]
        for number, is_ready in enumerate(encoded):
            if is_ready:
                yield from self._copies(number, name)
        rest = [number for number, is_ready in enumerate(encoded) if not is_ready]
        if rest:
            yield from self._slabs(name, rest)

    def _copies(self, number: int, name: str) -> Iterator[Piece]:
        """The pieces of a tensor of one output whose bytes are in a file of their own."""
        tensor, target, offset = self._places[number][name]
        ready = self._outputs[number].ready
        assert ready is not None
        self._write_parameters(number, tensor, ready.parameters(name) or {})
        path = os.path.abspath(ready[name])
        stamp, read = stamp_of(path), 0
        for first in range(0, tensor.bytes, SLAB_BYTES):
            nbytes = min(SLAB_BYTES, tensor.bytes - first)
            slab = Slab(tensor.source.name, path, stamp, first, nbytes, None, 0, first)
            before, read = read, tensor.source.nbytes * (first + nbytes) // tensor.bytes
            writes = [] if target.has(offset + first, nbytes) else [Write(number, name, target, offset + first, 0)]
            yield Piece(self._tensors(name), slab if writes else None, read - before, writes)

    def _slabs(self, name: str, numbers: Sequence[int]) -> Iterator[Piece]:
        """The pieces of a tensor that these outputs make of the source. Those that want the same share a result."""
        wanted: list[Wanted] = []
        results: dict[Any, int] = {}
        result_of: dict[int, int] = {}
        for number in numbers:
            place = self._places[number][name]
            fitted: Fitted | None = None
            if place.tensor.converted and not place.done:
                fitted = self._fitters[number].of_tensor(place.tensor)
                self._write_parameters(number, place.tensor, fitted or {})
            key = self._key(number, place.tensor, fitted)
            if key not in results:
                results[key] = len(wanted)
                wanted.append(self._wanted(number, place.tensor, fitted or None))
            result_of[number] = results[key]
        for slab, spans in slabs_of(wanted, self._source, self._stamps, self._check):
            writes = []
            for number in numbers:
                _, target, offset = self._places[number][name]
                within, length = spans[result_of[number] if slab.encodings else 0]
                if not target.has(offset + within, length):
                    writes.append(Write(number, name, target, offset + within, result_of[number]))
            yield Piece(self._tensors(name), _needed(slab, writes), slab.nbytes, writes)

    def _key(self, number: int, tensor: TensorPlan, fitted: "Fitted | None") -> Any:
        """What decides the bytes of a tensor of an output. Outputs with equal keys share them."""
        if not tensor.converted:
            return None
        # A codec that asks may look at the metadata, which differs between outputs.
        own = number if types[tensor.to_id].by_matrix else None
        values = {} if fitted is None else {key: little_endian(value).tobytes() for key, value in fitted.items()}
        floor = self._outputs[number].plan.options.imatrix_floor
        return tensor.to_id, tensor.importance, floor, own, tuple(sorted(values.items()))

    def _write_parameters(self, number: int, tensor: TensorPlan, fitted: "Mapping[str, Any]") -> None:
        for parameter in tensor.parameters:
            target, at = self._stored[number][parameter.name]
            target.pwrite(little_endian(fitted[parameter.parameter]), at)

    def _wanted(self, number: int, tensor: TensorPlan, fitted: "Fitted | None" = None) -> Wanted:
        return Wanted(tensor, self._importance(number, tensor), self._facts[number], fitted)

    def _importance(self, number: int, tensor: TensorPlan) -> Sequence[Any]:
        """One `Encoding.importance` per expert."""
        if not tensor.importance or not tensor.converted:
            return ()
        imatrix = self._imatrix
        if imatrix is None:
            raise PlanError(f"{tensor.name}: the plan uses importance: give the imatrix that the plan was made with")
        cols, count, floor = tensor.source.n_cols, tensor.n_experts, self._outputs[number].plan.options.imatrix_floor
        # Reading it here, not only in the workers, also collects its warnings.
        rows = imatrix.row(tensor.importance, cols, count, floor).reshape(-1, cols)
        if tensor.to_type in BLOWN_UP_BY_ZEROS and (share := mostly_zero(rows)):
            imatrix.warn(
                f"entry {tensor.importance}: {share:.0%} of the values are zero (calibration did not use these "
                f"columns), and {tensor.to_type} decodes such columns to several times the largest weight: use "
                "--imatrix-floor 0.01 (imatrix_floor=0.01), or another type"
            )
        if self._begun is not None:
            return [ImportanceRow(*self._begun, tensor.importance, count, i, floor) for i in range(count)]
        return list(rows)


def _needed(slab: Slab, writes: Sequence[Write]) -> Slab | None:
    """The slab with only those encodings whose results are to be written; the writes get their new numbers."""
    if not writes or not slab.encodings:
        for write in writes:
            write.result = 0
        return slab if writes else None
    used = sorted({write.result for write in writes})
    for write in writes:
        write.result = used.index(write.result)
    return replace(slab, encodings=tuple(slab.encodings[result] for result in used))
