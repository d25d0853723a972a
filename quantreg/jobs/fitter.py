"""Fitting the parameters of types to the tensors of a model, before these are encoded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.fitting import check_sample, fit_samples
from quantreg.jobs.slabs import Slab, Worker
from quantreg.jobs.source import Source
from quantreg.parameters import Sample, TensorContext
from quantreg.recipes import Plan, TensorPlan
from quantreg.registry import types

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.parameters import Fitted

__all__ = ["Fitter", "little_endian"]


class Fitter:
    """Fits the parameters that a plan keeps, each once.

    ``cut(tensor)`` yields a Slab with one encoding, and more, for the rows of a tensor. ``facts`` is the metadata of
    the output that codecs may know. The fitter reads the source in slabs, in the calling thread, so memory does not
    grow with the tensor. A run that is continued fits again, to the same values.
    """

    def __init__(
        self,
        source: Source,
        planned: Plan,
        cut: Callable[[TensorPlan], Iterable[tuple[Slab, Any]]],
        facts: Mapping[str, Any],
    ) -> None:
        self._planned, self._cut, self._facts = planned, cut, facts
        self._worker = Worker(lambda path, stamp: source.file(path))
        self._of_model: dict[str, Fitted] = {}

    def of_model(self) -> "Iterator[tuple[str, NDArray[Any]]]":
        """Yield (name in the file, values) of the parameters that belong to the whole model."""
        for parameter in self._planned.parameters:
            yield parameter.name, little_endian(self._model(parameter.type)[parameter.parameter])

    def of_tensor(self, tensor: TensorPlan) -> "Fitted | None":
        """The parameters of a tensor's new type, or None if it gets none."""
        qtype = types[tensor.to_id]
        if qtype.parameters is None:
            return None
        if qtype.parameters.scope == "model":
            return self._model(qtype.name) if any(p.type == qtype.name for p in self._planned.parameters) else None
        if not tensor.parameters:
            return None
        return fit_samples(qtype, self._samples([tensor]), TensorContext(tensor.name, tensor.shape, self._facts))

    def _model(self, type_name: str) -> "Fitted":
        if type_name not in self._of_model:
            tensors = [t for t in self._planned.tensors if t.converted and t.to_type == type_name]
            context = TensorContext(None, (), self._facts)
            self._of_model[type_name] = fit_samples(types[type_name], self._samples(tensors), context)
        return self._of_model[type_name]

    def _samples(self, tensors: Iterable[TensorPlan]) -> Iterator[Sample]:
        for tensor in tensors:
            for slab, _ in self._cut(tensor):
                encoding = slab.encodings[0]
                assert encoding.becomes is not None
                rows = self._worker.floats(slab).copy()  # a plugin may keep them, but the worker uses its buffer again
                check_sample(rows, slab.start, slab.tensor)
                yield Sample(rows, self._worker.columns(encoding, slab.n_cols), encoding.becomes)


def little_endian(values: "NDArray[np.float32]") -> "NDArray[np.uint8]":
    """The bytes of float32 values in a file."""
    return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
