"""How good a type is on a model: error, size and speed on a random sample of its rows."""

import math
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from quantreg import files
from quantreg.dispatch import dequantize, quantize
from quantreg.errors import CodecError, PlanError
from quantreg.ggml import INTEGER_TYPES
from quantreg.importance import ImportanceMatrix
from quantreg.registry import registry, types

__all__ = ["Evaluation", "Measure", "Skipped", "built_in_types", "evaluate"]

SAMPLE_WEIGHTS = 1 << 21


@dataclass(frozen=True, slots=True)
class Measure:
    """One type on one tensor, or (``tensor`` None) on all tensors of the sample together.

    ``weights`` is how many were encoded. ``rmse`` and ``max_error`` are in units of the weights; ``error`` is rmse as a
    share of the weights' root mean square; ``weighted_error`` the same with each square multiplied by its column's
    calibration statistics (without an imatrix it equals ``error``); ``cosine`` between weights and decoded weights.
    ``encode_speed`` and ``decode_speed`` are millions of weights a second, in one thread.
    """

    type: str
    tensor: str | None
    weights: int
    bits_per_weight: float
    rmse: float
    error: float
    weighted_error: float
    max_error: float
    cosine: float
    encode_speed: float
    decode_speed: float

    def to_dict(self) -> dict:
        return asdict(self)


class Skipped(NamedTuple):
    """A tensor that could not be encoded to a type, and why."""

    type: str
    tensor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found: ``totals`` has one Measure a type, ``tensors`` one a type and tensor.

    ``skipped`` names (type, tensor, reason) of what could not be encoded; totals of types with skipped tensors are over
    fewer weights.
    """

    path: str
    imatrix: str | None
    totals: tuple[Measure, ...]
    tensors: tuple[Measure, ...]
    skipped: tuple[Skipped, ...]

    def to_dict(self) -> dict:
        """As JSON-ready data."""
        return {
            "file": self.path,
            "imatrix": self.imatrix,
            "types": [measure.to_dict() for measure in self.totals],
            "tensors": [measure.to_dict() for measure in self.tensors],
            "skipped": [entry._asdict() for entry in self.skipped],
        }


def built_in_types() -> list[str]:
    """The types to compare with: built in, 1 to 9 bits per weight, encoding without importance, and not internal."""
    return [
        t.name
        for t in registry.all_types()
        if registry.is_built_in(t)
        and 1 < t.bits_per_weight < 9
        and not t.requires_importance
        and t.codec.can_encode
        and t.name not in INTEGER_TYPES
    ]


def evaluate(path, type_names, imatrix=None, *, sample=SAMPLE_WEIGHTS, seed=0, progress=None) -> Evaluation:
    """Encode and decode a random sample of the rows of a model in each type.

    ``path`` is a GGUF file of weights that quantreg decodes; ``type_names`` are names, ids or QuantTypes; ``imatrix`` a
    path or an ImportanceMatrix. The sample is about ``sample`` weights, of all matrices in proportion to their size (at
    least one row each), the same for all types and for the same ``seed``. ``progress(tensor name)`` is called before
    each tensor. Raises what `quantreg.open` raises; UnknownTypeError; CodecError for a type that cannot encode or that
    needs an imatrix; PlanError if the file has no matrices.
    """
    chosen = [types[name] for name in type_names]
    if imatrix is not None and not isinstance(imatrix, ImportanceMatrix):
        imatrix = ImportanceMatrix.read(imatrix)
    for qtype in chosen:
        if not qtype.codec.can_encode:
            raise CodecError(f"{qtype.name} can only be decoded")
        if qtype.requires_importance and imatrix is None:
            raise CodecError(f"{qtype.name} cannot be encoded without importance: give an imatrix")
        _warm_up(qtype)
    sums, measures, skipped = {}, [], []
    with files.open(path) as model:
        for name, tensor, rows in _sampled(model, sample, np.random.default_rng(seed)):
            if progress:
                progress(name)
            x = dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[rows], tensor.type_id, threads=1)
            columns = _columns(imatrix, name, tensor.shape, rows)
            for qtype in chosen:
                reason = _cannot(qtype, x, columns)
                if reason:
                    skipped.append(Skipped(qtype.name, name, reason))
                    continue
                parts = _measure(qtype, x, columns)
                measures.append(_finish(qtype, name, parts))
                sums[qtype] = parts if qtype not in sums else _add(sums[qtype], parts)
    if not measures and not skipped:
        raise PlanError(f"{path} has no matrices to evaluate")
    totals = tuple(_finish(qtype, None, sums[qtype]) for qtype in dict.fromkeys(chosen) if qtype in sums)
    source = None if imatrix is None else imatrix.path
    return Evaluation(str(path), source and str(source), totals, tuple(measures), tuple(skipped))


def _warm_up(qtype):
    """Load the codec and build its tables, so that this is not in the first tensor's time."""
    x = np.ones((1, qtype.block_size), np.float32)
    dequantize(quantize(x, qtype, x[0], threads=1), qtype, threads=1)


def _sampled(model, sample, rng):
    """(name, tensor, sorted row numbers) of every matrix of known type."""
    matrices = [(name, model[name]) for name in model]
    matrices = [(name, t) for name, t in matrices if len(t.shape) > 1 and math.prod(t.shape) and t.type_id in types]
    total = sum(math.prod(tensor.shape) for _, tensor in matrices)
    for name, tensor in matrices:
        count = math.prod(tensor.shape[:-1])
        wanted = min(count, max(1, round(sample * (count / total))))
        yield name, tensor, np.sort(rng.choice(count, wanted, replace=False))


def _columns(imatrix, name, shape, rows):
    """Statistics of the columns, float32 (rows, cols) or (cols,); None without."""
    if imatrix is None or name not in imatrix.entries:
        return None
    experts = math.prod(shape[:-2])
    values = imatrix.row(name, shape[-1], experts)
    return values[rows // shape[-2]] if experts > 1 else values


def _cannot(qtype, x, columns):
    if x.shape[1] % qtype.block_size:
        return f"rows of {x.shape[1]} weights are no multiple of {qtype.block_size}"
    if qtype.requires_importance and columns is None:
        return "the imatrix has no entry for it"
    return None


def _measure(qtype, x, columns):
    """Sums over the rows, to be added up over tensors: of squares, products, times."""
    encoding = decoding = 0.0
    parts, back = [], []
    groups = [(x, columns)]
    if columns is not None and columns.ndim == 2:  # experts: rows with the same statistics together
        starts = np.flatnonzero(np.r_[True, (columns[1:] != columns[:-1]).any(axis=1)])
        groups = [(x[a:b], columns[a]) for a, b in zip(starts, [*starts[1:], len(x)], strict=True)]
    for rows, importance in groups:
        begun = time.perf_counter()
        data = quantize(rows, qtype, importance, threads=1)
        encoded = time.perf_counter()
        back.append(dequantize(data, qtype, threads=1))
        encoding, decoding = encoding + encoded - begun, decoding + time.perf_counter() - encoded
        parts.append(data.size)
    found = np.concatenate(back).astype(np.float64)
    exact = x.astype(np.float64)
    lost = (exact - found) ** 2
    weights = 1.0 if columns is None else columns.astype(np.float64)
    return {
        "weights": x.size, "bytes": sum(parts), "lost": lost.sum(), "size": (exact**2).sum(),
        "weighted_lost": (weights * lost).sum(), "weighted_size": (weights * exact**2).sum(),
        "max": math.sqrt(lost.max()), "product": (exact * found).sum(), "found": (found**2).sum(),
        "encoding": encoding, "decoding": decoding,
    }  # fmt: skip


def _add(a, b):
    return {key: max(a[key], b[key]) if key == "max" else a[key] + b[key] for key in a}


def _finish(qtype, tensor, s):
    return Measure(
        type=qtype.name, tensor=tensor, weights=int(s["weights"]), bits_per_weight=8 * s["bytes"] / s["weights"],
        rmse=math.sqrt(s["lost"] / s["weights"]), error=_root(s["lost"], s["size"]),
        weighted_error=_root(s["weighted_lost"], s["weighted_size"]), max_error=float(s["max"]),
        cosine=float(s["product"] / math.sqrt(s["size"] * s["found"])) if s["size"] * s["found"] > 0 else 1.0,
        encode_speed=s["weights"] / max(s["encoding"], 1e-9) / 1e6,
        decode_speed=s["weights"] / max(s["decoding"], 1e-9) / 1e6,
    )  # fmt: skip


def _root(lost, size):
    return math.sqrt(lost / size) if size > 0 else 0.0
