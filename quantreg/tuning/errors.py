"""What each type would cost each tensor: the relative error of its outputs, measured on some of its rows."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantreg.inference.model import Model
from quantreg.parameters import TensorContext
from quantreg.products import one_blas_thread
from quantreg.qtype import QuantType
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.embeddings import USUAL, Metric, embedding_metric
from quantreg.tuning.encoding import encode_matrix, fitted, takes_feedback
from quantreg.tuning.feedback import Factor, factor
from quantreg.tuning.statistics import Inputs, importance_of, layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["RelativeError", "embedding_errors", "output_errors", "weight_errors"]

SAMPLED_ROWS = 128  # of each matrix: rows are encoded one by one, so they stand for the others
SAMPLED_TOKENS = 1024  # of embeddings: the most frequent ones
SAMPLED_EXPERTS = 2


class RelativeError(NamedTuple):
    """The squared error of a tensor's outputs relative to them: with the ordinary bytes, and with error feedback."""

    plain: float
    tuned: float


def output_errors(
    model: Model, calibration: Calibration, candidates: Mapping[str, Sequence[QuantType]], sweeps: int = 1
) -> Iterator[tuple[str, dict[str, RelativeError]]]:
    """Yield (tensor, type -> error on held-out tokens) for the matrices that the text reaches.

    ``candidates`` says which types to try for each tensor. Feedback that does not help counts as the ordinary bytes.
    """
    for _, inputs, same in layers(model, calibration, [name for name in candidates if candidates[name]]):
        for leader, shared in inputs.items():
            names = [name for name, first in same.items() if first == leader and candidates.get(name)]
            names = [name for name in names if model.tensors[name].ndim in (2, 3)]
            if names:
                with one_blas_thread():
                    yield from _group(model, names, shared, candidates, sweeps)


def _group(
    model: Model, names: list[str], shared: Inputs, candidates: Mapping[str, Sequence[QuantType]], sweeps: int
) -> Iterator[tuple[str, dict[str, RelativeError]]]:
    """The errors of tensors that share their inputs."""
    found: dict[str, list[dict[str, RelativeError]]] = {name: [] for name in names}
    for matrix in _sampled(shared):
        h = shared.h[matrix]
        factored = factor(h, workers=model.workers, device=model.device)
        importance = importance_of(h, int(shared.count[matrix]))
        rows = {name: sampled_rows(model.tensors[name], matrix) for name in names}
        errors: dict[str, dict[str, RelativeError]] = {name: {} for name in names}
        held_out = shared.held_out[matrix]
        measure = partial(_measure, rows, errors, factored, importance, held_out, sweeps)
        model.workers(measure, [(name, qtype) for name in names for qtype in candidates[name]])
        for name in names:
            found[name].append(errors[name])
    for name, each in found.items():
        yield name, {qtype.name: _mean([errors[qtype.name] for errors in each]) for qtype in candidates[name]}


def _measure(
    rows: "Mapping[str, Floats]",
    errors: dict[str, dict[str, RelativeError]],
    factored: Factor,
    importance: "Floats",
    held_out: "Floats",
    sweeps: int,
    job: tuple[str, QuantType],
) -> None:
    """Encode the rows of one tensor to one type, and put the error into ``errors``."""
    name, qtype = job
    w = rows[name]
    parameters = fitted(w, qtype, importance, name)
    context = TensorContext(name, w.shape)
    one = encode_matrix(w, qtype, name, factored, importance, held_out, parameters, context, None, sweeps)
    errors[name][qtype.name] = RelativeError(one.plain, one.plain if one.tuned is None else min(one.tuned, one.plain))


def _mean(errors: list[RelativeError]) -> RelativeError:
    return RelativeError(float(np.mean([e.plain for e in errors])), float(np.mean([e.tuned for e in errors])))


def _sampled(shared: Inputs) -> list[int]:
    """The matrices that stand for a stack: those that most tokens reached."""
    return np.argsort(-shared.count, kind="stable")[:SAMPLED_EXPERTS].tolist()


def sampled_rows(tensor: QuantizedTensor, matrix: int = 0) -> "Floats":
    """Rows spread evenly over one matrix of a tensor: float32 (rows, cols)."""
    step = max(1, -(-tensor.shape[-2] // SAMPLED_ROWS))
    found = tensor[matrix, ::step] if tensor.ndim == 3 else tensor[::step]
    return np.ascontiguousarray(found, np.float32)


def embedding_errors(
    model: Model, calibration: Calibration, name: str, types: Sequence[QuantType]
) -> dict[str, RelativeError]:
    """The same for embeddings: the error of what reads the rows of the tokens, as often as they occur."""
    ids, counts = np.unique(calibration.part("fit"), return_counts=True)
    if len(ids) > SAMPLED_TOKENS:
        common = np.sort(np.argsort(-counts, kind="stable")[:SAMPLED_TOKENS])
        ids, counts = ids[common], counts[common]
    w = np.ascontiguousarray(model.tensors[name][ids], np.float32)
    m = embedding_metric(model, calibration)
    known = bool(np.isfinite(m).all() and m.any())
    metric = Metric(m, USUAL, model.device) if known else Metric(np.eye(len(m)), 1.0)
    found = {}
    for qtype in types:
        ones = np.ones(w.shape[1], np.float32) if qtype.requires_importance else None
        plain = QuantizedTensor.from_array(name, w, qtype.name, ones)
        before = after = metric.error(w, plain, counts)
        if known and takes_feedback(qtype):
            data = metric.encode(w, plain, qtype, model).data
            tuned = QuantizedTensor(name, w.shape, qtype.name, data, plain.parameters)
            after = min(before, metric.error(w, tuned, counts))
        found[qtype.name] = RelativeError(before, after)
    return found


def weight_errors(
    tensor: QuantizedTensor, importance: "Floats | None", types: Sequence[QuantType]
) -> dict[str, RelativeError]:
    """The error of the weights themselves, each weighted by the importance of its column: float32 (experts, cols)."""
    n = tensor.shape[0] if tensor.ndim == 3 else 1
    matrices = range(0, n, -(-n // SAMPLED_EXPERTS))
    found = {}
    for qtype in types:
        each = []
        for matrix in matrices:
            w = sampled_rows(tensor, matrix)
            row = None if importance is None else np.ascontiguousarray(importance.reshape(-1, w.shape[1])[matrix])
            each.append(_weighted(tensor.name, w, qtype, row, np.ones(1) if row is None else row))
        found[qtype.name] = _mean(each)
    return found


def _weighted(
    name: str, w: "Floats", qtype: QuantType, importance: "Floats | None", weights: "NDArray[Any]"
) -> RelativeError:
    given = np.ones(w.shape[1], np.float32) if importance is None and qtype.requires_importance else importance
    decoded = QuantizedTensor.from_array(name, w, qtype.name, given).dequantize()
    size = float((weights * w.astype(np.float64) ** 2).sum())
    error = float((weights * (w - decoded).astype(np.float64) ** 2).sum()) / size if size else 0.0
    return RelativeError(error, error)
