"""Measure types on a model: error, size and speed on a random sample of its rows."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantreg import files
from quantreg.dispatch import dequantize, quantize
from quantreg.errors import CodecError, PlanError
from quantreg.ggml import INTEGER_TYPES
from quantreg.html import table
from quantreg.importance import ImatrixLike, ImportanceMatrix
from quantreg.qtype import QuantType
from quantreg.registry import registry, types

__all__ = ["Evaluation", "Measure", "Skipped", "built_in_types", "evaluate"]

_SAMPLE_WEIGHTS = 1 << 21


@dataclass(frozen=True, slots=True)
class Measure:
    """One type on one tensor, or on all sampled tensors together (``tensor`` is None).

    - ``weights``: how many weights were encoded.
    - ``bits_per_weight``: the size of the encoded rows, with scales and row headers.
    - ``rmse``, ``max_error``: the root mean square error and the largest error, in units of the weights.
    - ``error``: ``rmse`` divided by the root mean square of the weights.
    - ``weighted_error``: like ``error``, but each square is multiplied by the calibration statistic of its column.
      Without an imatrix it equals ``error``.
    - ``cosine``: the cosine similarity of the weights and the decoded weights.
    - ``encode_speed``, ``decode_speed``: millions of weights per second, in one thread.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready data."""
        return asdict(self)


class Skipped(NamedTuple):
    """A tensor that could not be encoded in a type, and the reason."""

    type: str
    tensor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `evaluate`.

    - ``path``, ``imatrix``: the files that were read. ``imatrix`` is None if there was none.
    - ``totals``: one Measure per type, in the order in which the types were given.
    - ``tensors``: one Measure per type and tensor.
    - ``skipped``: the tensors that a type could not encode. The total of such a type covers fewer weights.
    """

    path: str
    imatrix: str | None
    totals: tuple[Measure, ...]
    tensors: tuple[Measure, ...]
    skipped: tuple[Skipped, ...]

    def __repr__(self) -> str:
        names = ", ".join(measure.type for measure in self.totals)
        return f"<Evaluation of {self.path!r}: {names} on {len({measure.tensor for measure in self.tensors})} tensors>"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready data."""
        return {
            "file": self.path,
            "imatrix": self.imatrix,
            "types": [measure.to_dict() for measure in self.totals],
            "tensors": [measure.to_dict() for measure in self.tensors],
            "skipped": [entry._asdict() for entry in self.skipped],
        }

    def _repr_html_(self) -> str:
        importance = f"importance from {self.imatrix}" if self.imatrix else "without importance"
        incomplete = ", ".join(dict.fromkeys(skip.type for skip in self.skipped))
        partly = f"; not every tensor could be encoded in {incomplete}" if incomplete else ""
        return table(
            f"{self.path}, {importance}{partly}",
            (
                "type", "weights", "bits per weight", "error", "weighted error", "RMSE", "largest error", "cosine",
                "encode, M/s", "decode, M/s",
            ),
            (
                (
                    m.type, m.weights, m.bits_per_weight, m.error, m.weighted_error, m.rmse, m.max_error, m.cosine,
                    m.encode_speed, m.decode_speed,
                )
                for m in sorted(self.totals, key=lambda m: (m.bits_per_weight, m.weighted_error))
            ),
        )  # fmt: skip


def built_in_types() -> list[str]:
    """Name the built-in types that new types are compared with.

    They take 1 to 9 bits per weight, encode without importance and are not types that ggml only computes with.
    """
    return [
        t.name
        for t in registry.all_types()
        if registry.is_built_in(t)
        and 1 < t.bits_per_weight < 9
        and not t.requires_importance
        and t.codec.can_encode
        and t.name not in INTEGER_TYPES
    ]


def evaluate(
    path: str | bytes | PathLike[str],
    type_names: Iterable[str | int | QuantType],
    imatrix: ImatrixLike | None = None,
    *,
    sample: int = _SAMPLE_WEIGHTS,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Evaluation:
    """Encode and decode a random sample of the rows of a model in each type, and measure the error and the speed.

    - ``path``: a GGUF model whose types quantreg can decode, such as an F16 model.
    - ``type_names``: names or ids of types, or QuantTypes.
    - ``imatrix``: an importance matrix or its path.
    - ``sample``: about how many weights to take. Every matrix contributes in proportion to its size, at least one row.
    - ``seed``: selects the rows. The same seed gives the same rows for every type.
    - ``progress``: called with the name of each tensor before it is measured.

    Raises UnknownTypeError; CodecError for a type that cannot encode, or that needs importance if there is no imatrix;
    PlanError if the model has no matrices; and whatever `quantreg.open` and `ImportanceMatrix.read` raise.
    """
    chosen = [types[name] for name in type_names]
    if imatrix is not None:
        imatrix = ImportanceMatrix.of(imatrix)
    for qtype in chosen:
        if not qtype.codec.can_encode:
            raise CodecError(f"{qtype.name} can only be decoded: choose types that can be encoded")
        if qtype.requires_importance and imatrix is None:
            raise CodecError(f"{qtype.name} cannot be encoded without importance: give an imatrix")
        _warm_up(qtype)
    sums: dict[QuantType, dict[str, float]] = {}
    measures: list[Measure] = []
    skipped: list[Skipped] = []
    with files.open(path) as model:
        for name, rows in _sampled(model, sample, np.random.default_rng(seed)):
            if progress:
                progress(name)
            tensor = model[name]
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
        raise PlanError(f"{os.fsdecode(path)} has no matrices to evaluate: give a model with two-dimensional tensors")
    totals = tuple(_finish(qtype, None, sums[qtype]) for qtype in dict.fromkeys(chosen) if qtype in sums)
    source = None if imatrix is None else imatrix.path
    return Evaluation(os.fsdecode(path), source and str(source), totals, tuple(measures), tuple(skipped))


def _warm_up(qtype: QuantType) -> None:
    """Load the codec and build its tables, so that the time for the first tensor does not include this."""
    x = np.ones((1, qtype.block_size), np.float32)
    dequantize(quantize(x, qtype, x[0], threads=1), qtype, threads=1)


def _sampled(model: files.File, sample: int, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield the name of every matrix of a known type, and the sorted numbers of its sampled rows."""
    shapes = {name: tensor.shape for name, tensor in model.items() if tensor.type_id in types}
    shapes = {name: shape for name, shape in shapes.items() if len(shape) > 1 and 0 not in shape}
    sizes = [math.prod(shape) for shape in shapes.values()]
    for name, shape in shapes.items():
        count = math.prod(shape[:-1])
        wanted = min(count, max(1, round(sample * (count / sum(sizes)))))
        yield name, np.sort(rng.choice(count, wanted, replace=False))


def _columns(
    imatrix: ImportanceMatrix | None, name: str, shape: tuple[int, ...], rows: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Return the statistics of the columns: (cols,), or (rows, cols) for experts. None if there are none."""
    if imatrix is None or name not in imatrix.entries:
        return None
    experts = math.prod(shape[:-2])
    values = imatrix.row(name, shape[-1], experts)
    return values[rows // shape[-2]] if experts > 1 else values


def _cannot(qtype: QuantType, x: NDArray[np.float32], columns: NDArray[np.float32] | None) -> str | None:
    """Say why the type cannot encode these rows; None if it can."""
    if x.shape[1] % qtype.block_size:
        return f"a row has {x.shape[1]} weights, which is not a multiple of the block size {qtype.block_size}"
    if qtype.requires_importance and columns is None:
        return "the imatrix has no entry for this tensor"
    return None


def _measure(qtype: QuantType, x: NDArray[np.float32], columns: NDArray[np.float32] | None) -> dict[str, float]:
    """Encode and decode the rows; return sums of squares, products and times, which `_add` adds up over tensors."""
    encoding = decoding = 0.0
    parts, back = [], []
    groups = [(x, columns)]
    if columns is not None and columns.ndim == 2:  # experts: a codec takes one set of statistics per call
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


def _add(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {key: max(a[key], b[key]) if key == "max" else a[key] + b[key] for key in a}


def _finish(qtype: QuantType, tensor: str | None, s: dict[str, float]) -> Measure:
    return Measure(
        type=qtype.name, tensor=tensor, weights=int(s["weights"]), bits_per_weight=8 * s["bytes"] / s["weights"],
        rmse=math.sqrt(s["lost"] / s["weights"]), error=_root(s["lost"], s["size"]),
        weighted_error=_root(s["weighted_lost"], s["weighted_size"]), max_error=float(s["max"]),
        cosine=float(s["product"] / math.sqrt(s["size"] * s["found"])) if s["size"] * s["found"] > 0 else 1.0,
        encode_speed=s["weights"] / max(s["encoding"], 1e-9) / 1e6,
        decode_speed=s["weights"] / max(s["decoding"], 1e-9) / 1e6,
    )  # fmt: skip


def _root(lost: float, size: float) -> float:
    return math.sqrt(lost / size) if size > 0 else 0.0
