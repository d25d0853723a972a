"""What each type would cost each tensor: the error of its outputs on held-out tokens, measured on some of its rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from quantreg.inference.model import Model
from quantreg.parameters import TensorContext
from quantreg.products import one_blas_thread
from quantreg.qtype import QuantType
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.encoding import encode_matrix, fitted
from quantreg.tuning.feedback import factor
from quantreg.tuning.statistics import Inputs, layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["embedding_errors", "output_errors"]

SAMPLED_ROWS = 256  # of each tensor: rows are encoded one by one, so they stand for the others
SAMPLED_EXPERTS = 2


def output_errors(
    model: Model, calibration: Calibration, candidates: Mapping[str, Sequence[QuantType]], sweeps: int = 1
) -> Iterator[tuple[str, dict[str, tuple[float, float]]]]:
    """Yield (tensor, type -> (error with ordinary bytes, error with feedback)) for tensors that the text reaches.

    ``candidates`` says which types each tensor may get.
    """
    for _, inputs, same in layers(model, calibration):
        for leader, shared in inputs.items():
            names = [name for name, first in same.items() if first == leader and name in candidates]
            names = [name for name in names if model.tensors[name].ndim in (2, 3)]
            with one_blas_thread():
                matrices = _sampled(shared)
                found: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in names}
                for matrix in matrices if names else ():
                    h = shared.h[matrix]
                    factored = factor(h)
                    importance = np.ascontiguousarray(np.diagonal(h)) / np.float32(max(1, int(shared.count[matrix])))
                    for name in names:
                        w = _rows(model.tensors[name], matrix)
                        errors = {}
                        for qtype in candidates[name]:
                            parameters = fitted(w, qtype, importance, name)
                            context = TensorContext(name, w.shape)
                            one = encode_matrix(
                                w, qtype, name, factored, importance, shared.held_out[matrix], parameters, context,
                                model.workers, sweeps,
                            )  # fmt: skip
                            errors[qtype.name] = (
                                one.plain,
                                one.plain if one.tuned is None else min(one.tuned, one.plain),
                            )
                        found[name].append(errors)
            for name in names:
                each = found[name]
                yield (
                    name,
                    {
                        key: (float(np.mean([e[key][0] for e in each])), float(np.mean([e[key][1] for e in each])))
                        for key in each[0]
                    },
                )


def _sampled(shared: Inputs) -> list[int]:
    """The matrices that stand for a stack: those that most tokens reached."""
    return np.argsort(-shared.count, kind="stable")[:SAMPLED_EXPERTS].tolist()


def _rows(tensor: QuantizedTensor, matrix: int) -> "Floats":
    rows = tensor.shape[-2]
    step = max(1, rows // SAMPLED_ROWS)
    found = tensor[matrix, ::step] if tensor.ndim == 3 else tensor[::step]
    return np.ascontiguousarray(found[:SAMPLED_ROWS], np.float32)


def embedding_errors(
    model: Model, name: str, calibration: Calibration, types: Sequence[QuantType]
) -> dict[str, tuple[float, float]]:
    """The same for embeddings, which no product reads: the error of the rows of the tokens, as often as they occur."""
    tensor = model.tensors[name]
    ids, counts = np.unique(calibration.part("fit"), return_counts=True)
    if len(ids) > 4 * SAMPLED_ROWS:
        common = np.argsort(-counts, kind="stable")[: 4 * SAMPLED_ROWS]
        ids, counts = ids[common], counts[common]
    w = np.ascontiguousarray(tensor[ids], np.float32)
    size = float((counts[:, None] * w.astype(np.float64) ** 2).sum())
    found = {}
    for qtype in types:
        parameters = fitted(w, qtype, np.ones(w.shape[1], np.float32), name)
        ones = np.ones(w.shape[1], np.float32) if qtype.requires_importance else None
        q = QuantizedTensor.from_array(name, w, qtype.name, ones) if parameters is None else None
        decoded = w if q is None else q.dequantize()
        error = float((counts[:, None] * (w - decoded).astype(np.float64) ** 2).sum()) / size
        found[qtype.name] = error, error
    return found
