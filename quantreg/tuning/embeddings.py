"""Error feedback for embeddings, which no product reads: what their errors do to the products that follow.

The error e of an embedding goes along the residual stream into every layer. A matrix W that reads the stream behind a
norm with weights D turns it into about W D e / rms, where rms is the root mean square of the stream there. So
M = sum over these matrices of D W^T W D / rms^2 does for the rows of the embeddings what H does for those of a matrix.
It is the effect on the products nearby. In what reaches the predictions, directions differ less. So the eigenvalues
of M get an exponent, and the KL divergence on tokens that decide says which, and whether feedback helps at all.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantreg.devices import CPU, Device
from quantreg.inference.model import Model
from quantreg.parameters import TensorContext
from quantreg.products import one_blas_thread
from quantreg.qtype import QuantType
from quantreg.tensor import QuantizedTensor
from quantreg.tuning.calibration import Calibration
from quantreg.tuning.encoding import encode_matrix, joined, row_spans, why_no_feedback
from quantreg.tuning.feedback import Factor, factor
from quantreg.tuning.rows import Basis, Rows, Runner
from quantreg.tuning.sensitivity import MOST_WORK, Sensitivity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.tuning.encoding import Encoded

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

__all__ = ["USUAL", "Metric", "TunedEmbeddings", "embedding_metric", "encode_embeddings"]

EXPONENTS = (0.5, 0.75, 1.0)  # that are tried
USUAL = 0.75  # of them, where none is tried
TOKENS = 2048  # that go through the model to find what reads the stream
ROWS = 1024  # of each matrix that stand for the others
EXPERTS = 2  # of each stack that stand for the others


@dataclass(frozen=True, slots=True)
class TunedEmbeddings:
    """Embeddings that are encoded.

    - ``tensor``: with feedback if ``kept``, else with the ordinary bytes.
    - ``plain``, ``tuned``: the error of the products that read the rows, relative to them, with the ordinary bytes and
      with feedback. ``tuned`` is None if there was no feedback to try.
    - ``reason``: why the feedback was not kept, or None.
    """

    tensor: QuantizedTensor
    plain: float
    tuned: float | None
    kept: bool
    reason: str | None = None


class _Readers:
    """Notes which matrices read a norm of the stream, while tokens run."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._norms: list[tuple[Floats, Floats, float]] = []  # result, weights, 1 / mean square
        self.metric = np.zeros((model.width, model.width))

    def normed(self, x: "Floats", weight: "Floats | None", out: "Floats") -> None:
        if x.shape[-1] == self._model.width:
            centred = x - x.mean(axis=-1, keepdims=True) if self._model.graph.norm == "layer" else x
            squares = np.square(centred, dtype=np.float64).mean(axis=-1)
            inverse = float((1 / np.maximum(squares, 1e-30)).mean())
            self._norms.append((out, np.ones(x.shape[-1], np.float32) if weight is None else weight, inverse))

    def observe(self, name: str, x: "Floats", experts: "NDArray[np.intp] | None") -> None:
        for out, weight, inverse in reversed(self._norms):
            if x.shape[-1] == out.shape[-1] and np.shares_memory(x, out):
                self._add(name, weight * np.float32(np.sqrt(inverse)), experts)
                return

    def _add(self, name: str, gain: "Floats", experts: "NDArray[np.intp] | None") -> None:
        tensor = self._model.tensors[name]
        chosen = [(tensor, 1.0)]
        if experts is not None:
            ids, counts = np.unique(experts, return_counts=True)
            most = np.argsort(-counts, kind="stable")[:EXPERTS]
            share = experts.size / max(1, int(counts[most].sum())) / len(experts)
            chosen = [(tensor[int(ids[i])], float(counts[i]) * share) for i in most]
        for matrix, share in chosen:
            step = max(1, -(-matrix.shape[0] // ROWS))
            rows = np.asarray(matrix[::step], np.float32) * gain
            self.metric += (rows.T @ rows) * np.float64(share * matrix.shape[0] / len(rows))

    def forget(self) -> None:
        """Let go of the results of norms that nothing reads any more."""
        self._norms.clear()


def embedding_metric(model: Model, calibration: Calibration) -> "Doubles":
    """M of the products that read the residual stream: float64 (width, width). All zeros if none was found."""
    readers = _Readers(model)
    with one_blas_thread(), np.errstate(all="ignore"):  # what overflows is found in the sum
        x, run = model.begin(next(calibration.batches("fit", TOKENS)))
        run.observe, run.normed = readers.observe, readers.normed
        for layer in range(model.n_layers):
            x = model.through(layer, x, run)
            readers.forget()
        readers.observe(model.output_name, model.finish(x, run), None)
    if model.graph.norm == "layer":  # it takes the mean away
        readers.metric -= readers.metric.mean(axis=0)
        readers.metric -= readers.metric.mean(axis=1, keepdims=True)
    return readers.metric


class Metric:
    """M with its eigenvalues raised to a power."""

    def __init__(self, metric: "Doubles", exponent: float, device: Device = CPU) -> None:
        with one_blas_thread():  # the bytes must not depend on the number of threads
            values, vectors = np.linalg.eigh(metric)
            powers = np.maximum(values, 1e-9 * values[-1]) ** exponent
            powers /= powers.mean()
            self.root: Floats = np.ascontiguousarray((vectors * np.sqrt(powers)).T, np.float32)  # M = root^T root
            m: Floats = ((vectors * powers) @ vectors.T).astype(np.float32)
            self.factored: Factor = factor(m, device=device)
        self.importance: Floats = np.ascontiguousarray(np.diagonal(m))

    def encode(self, w: "Floats", like: QuantizedTensor, qtype: QuantType, model: Model) -> "Encoded":
        """Encode rows with feedback."""
        context = TensorContext(like.name, like.shape, model.metadata)
        with one_blas_thread():
            return encode_matrix(
                w, qtype, like.name, self.factored, self.importance, self.root, like.parameters, context, model.workers
            )

    def encode_all(self, like: QuantizedTensor, qtype: QuantType, model: Model, runner: Runner) -> "NDArray[np.uint8]":
        """Encode all rows of a tensor of the model with feedback, where the runner encodes rows."""
        basis = runner.keep(Basis(self.factored, self.importance, self.root))
        context = TensorContext(like.name, like.shape, model.metadata) if qtype.by_matrix else None
        items = [
            Rows(like.name, 0, first, last, qtype.name, basis, like.parameters, context)
            for first, last in row_spans(*like.shape)
        ]
        with one_blas_thread():
            return joined([part for rows, part in runner.run(items) if rows is not None]).data

    def error(self, w: "Floats", tensor: QuantizedTensor, often: "NDArray[np.int64] | None" = None) -> float:
        """The error of the products of rows, relative to them. ``often`` says how often each row occurs, int64 (n,)."""
        size = wrong = 0.0
        for first in range(0, len(w), ROWS):  # a large vocabulary would need several times its size in memory
            part = slice(first, first + ROWS)
            energy = [
                np.square(x @ self.root.T, dtype=np.float64).sum(axis=1) for x in (w[part], w[part] - tensor[part])
            ]
            size, wrong = (
                total + float(each.sum() if often is None else each @ often[part])
                for total, each in zip((size, wrong), energy, strict=True)
            )
        return wrong / size if size else 0.0


def encode_embeddings(
    model: Model, calibration: Calibration, name: str, qtype: QuantType, runner: Runner | None = None
) -> TunedEmbeddings:
    """Encode the embeddings ``name`` of a model with feedback, if that helps on the tokens that decide.

    ``runner`` encodes the rows, by default on the threads of the model. No product may read the embeddings. Those that
    are the output matrix, too, are tuned like other matrices. Raises what `quantreg.perplexity` raises.
    """
    w = np.ascontiguousarray(model.tensors[name].dequantize(), np.float32)
    ones = np.ones(w.shape[1], np.float32) if qtype.requires_importance else None
    ordinary = QuantizedTensor.from_array(name, w, qtype.name, ones)
    reason = why_no_feedback(qtype)
    if reason is None and not model.graph.generates:
        reason = "the model makes no predictions that could be compared"
    metric = np.zeros((w.shape[1], w.shape[1])) if reason else embedding_metric(model, calibration)
    if reason is None and not (np.isfinite(metric).all() and metric.any()):
        reason = "no matrix is known to read them"
    if reason is not None:
        return TunedEmbeddings(ordinary, Metric(np.eye(len(metric)), 1.0).error(w, ordinary), None, False, reason)
    tuned = _best(model, calibration, metric, w, ordinary, qtype, runner or Runner(model))
    by = Metric(metric, 1.0)
    plain = by.error(w, ordinary)
    if tuned is None:
        return TunedEmbeddings(ordinary, plain, plain, False, "feedback did not help on other tokens")
    return TunedEmbeddings(tuned, plain, by.error(w, tuned), True)


def _best(
    model: Model,
    calibration: Calibration,
    metric: "Doubles",
    w: "Floats",
    ordinary: QuantizedTensor,
    qtype: QuantType,
    runner: Runner,
) -> QuantizedTensor | None:
    """The embeddings with feedback by the exponent that serves the predictions best, or None if none serves them."""
    # Only the rows of the tokens that decide are needed to choose; a very short text takes some that fit, too.
    tokens = np.concatenate([calibration.part("decide"), calibration.part("fit")[:2]])
    rows = np.unique(tokens)
    data = np.array(ordinary.data)
    best = None
    with Sensitivity(model, calibration, _chunks(model, calibration)) as sensitivity:
        least = sensitivity.divergence({ordinary.name: ordinary})
        for exponent in EXPONENTS:
            data[rows] = Metric(metric, exponent, model.device).encode(w[rows], ordinary, qtype, model).data
            tensor = QuantizedTensor(ordinary.name, ordinary.shape, qtype.name, data, ordinary.parameters)
            divergence = sensitivity.divergence({ordinary.name: tensor})
            if divergence < least:
                best, least = exponent, divergence
    if best is None:
        return None
    data = Metric(metric, best, model.device).encode_all(ordinary, qtype, model, runner)
    return QuantizedTensor(ordinary.name, ordinary.shape, qtype.name, data, ordinary.parameters)


def _chunks(model: Model, calibration: Calibration) -> int:
    """How many chunks decide: all of them, unless running the model on them would take too long."""
    work = calibration.tokens.shape[1] * sum(tensor.size for tensor in model.tensors.values()) * (len(EXPONENTS) + 2)
    return max(2, min(len(calibration.part("decide")), int(MOST_WORK / work)))
