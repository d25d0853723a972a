"""Measure types on a model: error, size and speed on a random sample of its rows."""

import math
import time
from collections.abc import Callable, Iterable
from os import PathLike
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import quantreg
from quantreg import files
from quantreg.dispatch import dequantize, quantize
from quantreg.errors import PlanError, QuantregError
from quantreg.evaluation.results import Conditions, Evaluation, Failed, Measure, Skipped
from quantreg.evaluation.targets import Target, make_target
from quantreg.ggml import INTEGER_TYPES
from quantreg.importance import ImportanceMatrix
from quantreg.qtype import QuantType
from quantreg.recipes import FileType
from quantreg.recipes.catalog import type_or_file_type
from quantreg.registry import registry, types

__all__ = ["Evaluation", "Failed", "Measure", "Skipped", "Step", "built_in_types", "evaluate"]

_SAMPLE_WEIGHTS = 1 << 21


class Step(NamedTuple):
    """The progress of an evaluation: what is measured next, and how many of all weights have been measured.

    ``total`` counts each sampled weight once per type.
    """

    tensor: str
    type: str
    done: int
    total: int


def built_in_types(importance: bool = False) -> list[str]:
    """Name the built-in types that new types are compared with.

    They take 1 to 9 bits per weight, and are not types that ggml only computes with. ``importance`` says whether to
    include those that cannot be encoded without importance.
    """
    return [
        t.name
        for t in registry.all_types()
        if registry.is_built_in(t)
        and 1 < t.bits_per_weight < 9
        and (importance or not t.requires_importance)
        and t.codec.can_encode
        and t.name not in INTEGER_TYPES
    ]


def evaluate(
    path: str | PathLike[str],
    type_names: "Iterable[str | int | QuantType | FileType]",
    imatrix: str | PathLike[str] | ImportanceMatrix | None = None,
    *,
    sample: int = _SAMPLE_WEIGHTS,
    seed: int = 0,
    progress: Callable[[Step], object] | None = None,
) -> Evaluation:
    """Encode and decode a random sample of the rows of a model in each type, and measure the error and the speed.

    - ``path``: a model that `quantreg.open` can read, of types that quantreg can decode, such as an F16 model.
    - ``type_names``: names or ids of types, or QuantTypes; names of file types, or FileTypes. A name that is both, such
      as Q4_0, means the type. A file type gives each tensor the type that `quantize_file` would give it.
    - ``imatrix``: an importance matrix or its path.
    - ``sample``: about how many weights to take. Every matrix contributes in proportion to its size, at least one row.
    - ``seed``: selects the rows. The same seed gives the same rows for every type.
    - ``progress``: called with a `Step` before each tensor is measured in each type.

    A type that cannot be measured is listed in ``Evaluation.failed``, and the others are measured. If none can be, the
    error of the first is raised: CodecError for a type that cannot encode, or that needs importance if there is no
    imatrix; PlanError for a file type that does not fit the model. Raises UnknownTypeError; PlanError if the model has
    no matrices; and whatever `quantreg.open` and `ImportanceMatrix.read` raise.
    """
    wanted = list({(type(found), found.name): found for found in map(type_or_file_type, type_names)}.values())
    if imatrix is not None and not isinstance(imatrix, ImportanceMatrix):
        imatrix = ImportanceMatrix.read(imatrix)
    with files.open(path) as model:
        targets, failed = _prepared(wanted, model, imatrix)
        chosen = list(dict.fromkeys(qtype for target in targets for qtype in target.types()))
        conditions = Conditions.here(model.metadata, sample, seed, _versions(chosen))
        rows = _sampled(model, sample, np.random.default_rng(seed))
        if not rows:
            raise PlanError(f"{path} has no matrices to evaluate: give a model with two-dimensional tensors")
        run = _Run(model, imatrix, targets)
        run.measure(rows, progress)
    for target in targets:
        if target not in run.sums:
            reasons = [skip.reason for skip in run.skipped if skip.type == target.name]
            failed.append(Failed(target.name, f"no tensor could be encoded: {reasons[0]}"))
    totals = tuple(_finish(target, None, run.sums[target]) for target in targets if target in run.sums)
    source = None if imatrix is None else imatrix.path
    return Evaluation(
        str(path), source and str(source), totals, tuple(run.measures), tuple(run.skipped), tuple(failed), conditions
    )


def _prepared(
    wanted: "Iterable[QuantType | FileType]", model: files.File, imatrix: ImportanceMatrix | None
) -> tuple[list[Target], list[Failed]]:
    """Return the targets that can be measured, and those that cannot with the reason. Raises if there are only those.

    Codecs are loaded and build their tables, so that the time for the first tensor does not include this.
    """
    targets: list[Target] = []
    errors: list[tuple[str, Exception]] = []
    warm: set[QuantType] = set()
    for found in wanted:
        try:
            made = make_target(found, model, imatrix)
            for qtype in set(made.types()) - warm:
                x = np.ones((1, qtype.block_size), np.float32)
                _round_trip(qtype, None, x, x[0])
                warm.add(qtype)
        except MemoryError:
            raise
        except Exception as error:  # a plugin may raise anything, and the other types do not depend on it
            errors.append((found.name, error))
        else:
            targets.append(made)
    if errors and not targets:
        raise errors[0][1]
    return targets, [Failed(name, _words(error)) for name, error in errors]


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, QuantregError) else f"{type(error).__name__}: {error}"


def _versions(chosen: Iterable[QuantType]) -> dict[str, str]:
    """The versions of quantreg and of the other distributions that provide these types."""
    found = {"quantreg": quantreg.__version__}
    for qtype in chosen:
        if registry.find(qtype.name) is qtype:
            plugin = registry.owner(qtype)
            if not registry.is_built_in(qtype):
                found[plugin.distribution] = plugin.version
    return found


class _Run:
    """The figures of a run as they come in."""

    def __init__(self, model: files.File, imatrix: ImportanceMatrix | None, targets: list[Target]) -> None:
        self.model = model
        self.imatrix = imatrix
        self.targets = targets
        self.sums: dict[Target, _Sums] = {}
        self.measures: list[Measure] = []
        self.skipped: list[Skipped] = []

    def measure(self, sampled: "dict[str, NDArray[np.int64]]", progress: Callable[[Step], object] | None) -> None:
        """Measure every target on the sampled rows of every tensor."""
        size = {name: len(rows) * self.model[name].shape[-1] for name, rows in sampled.items()}
        done, total = 0, sum(size.values()) * len(self.targets)
        for name, rows in sampled.items():
            tensor = self.model[name]
            x = dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[rows], tensor.type_id, threads=1)
            stored = tensor.data.shape[-1] * len(rows)
            columns = _columns(self.imatrix, name, tensor.shape, rows)
            known: dict[tuple[QuantType, bool], _Sums | str] = {}  # several file types may agree on a tensor
            for target in self.targets:
                if progress:
                    progress(Step(name, target.name, done, total))
                done += size[name]
                qtype = target.type_of(name)
                if qtype is None:
                    self._add(target, name, tensor.type_name, _kept(x, columns, stored))
                    continue
                uses = target.uses_importance(name) and columns is not None
                key = (qtype, uses)
                if key not in known:
                    known[key] = _measure(qtype, name, x, columns, uses)
                found = known[key]
                if isinstance(found, str):
                    self.skipped.append(Skipped(target.name, name, found))
                else:
                    self._add(target, name, qtype.name, found)

    def _add(self, target: Target, tensor: str, encoded_as: str, sums: "_Sums") -> None:
        self.measures.append(_finish(target, tensor, sums, encoded_as))
        self.sums[target] = _add(self.sums[target], sums) if target in self.sums else sums


def _sampled(model: files.File, sample: int, rng: np.random.Generator) -> "dict[str, NDArray[np.int64]]":
    """Map the name of every matrix of a known type to the sorted numbers of its sampled rows."""
    shapes = {name: tensor.shape for name, tensor in model.items() if tensor.type_id in types}
    shapes = {name: shape for name, shape in shapes.items() if len(shape) > 1 and 0 not in shape}
    weights = sum(math.prod(shape) for shape in shapes.values())
    found = {}
    for name, shape in shapes.items():
        count = math.prod(shape[:-1])
        wanted = min(count, max(1, round(sample * (count / weights))))
        found[name] = np.sort(rng.choice(count, wanted, replace=False))
    return found


def _columns(
    imatrix: ImportanceMatrix | None, name: str, shape: tuple[int, ...], rows: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Return the statistics of the columns: (cols,), or (rows, cols) for experts. None if there are none."""
    if imatrix is None or name not in imatrix.entries:
        return None
    experts = math.prod(shape[:-2])
    values = imatrix.row(name, shape[-1], experts)
    return values[rows // shape[-2]] if experts > 1 else values


# ---- one tensor in one type ----

_Sums = dict[str, float]  # sums of squares, products and times, which `_add` adds up over tensors


def _measure(
    qtype: QuantType, name: str, x: NDArray[np.float32], columns: NDArray[np.float32] | None, encoded_with: bool
) -> "_Sums | str":
    """Encode and decode the rows. Return the sums, or the reason why the type cannot encode them.

    ``columns`` weights the error; the encoder gets them only if ``encoded_with`` is true.
    """
    if x.shape[1] % qtype.block_size:
        return f"a row has {x.shape[1]} weights, which is not a multiple of the block size {qtype.block_size}"
    if qtype.requires_importance and not encoded_with:
        return "the imatrix has no entry for this tensor"
    try:
        done = _round_trip(qtype, name, x, columns if encoded_with else None)
    except MemoryError:
        raise
    except Exception as error:  # a plugin may raise anything, and the other types do not depend on it
        return _words(error)
    return _sums(x, done.decoded, columns, done.nbytes, done.encoding, done.decoding)


class _RoundTrip(NamedTuple):
    """Decoded rows, the size of the encoded ones in bytes, and the seconds that encoding and decoding took."""

    decoded: NDArray[np.float32]
    nbytes: int
    encoding: float
    decoding: float


def _round_trip(
    qtype: QuantType, name: str | None, x: NDArray[np.float32], columns: NDArray[np.float32] | None
) -> _RoundTrip:
    """Encode and decode rows of one tensor. Nothing else in this package encodes or decodes for a measurement.

    ``name`` is the tensor, or None for rows that only load the codec. ``columns`` is None, (cols,), or (rows, cols) if
    the rows belong to experts that have their own statistics.
    """
    groups = [(x, columns)]
    if columns is not None and columns.ndim == 2:  # a codec takes one set of statistics per call
        starts = np.flatnonzero(np.r_[True, (columns[1:] != columns[:-1]).any(axis=1)])
        groups = [(x[a:b], columns[a]) for a, b in zip(starts, [*starts[1:], len(x)], strict=True)]
    encoding = decoding = 0.0
    nbytes, decoded = 0, []
    for rows, importance in groups:
        begun = time.perf_counter()
        data = quantize(rows, qtype, importance, threads=1, tensor=name)
        encoded = time.perf_counter()
        decoded.append(dequantize(data, qtype, threads=1))
        encoding, decoding = encoding + encoded - begun, decoding + time.perf_counter() - encoded
        nbytes += data.size
    return _RoundTrip(np.concatenate(decoded), nbytes, encoding, decoding)


def _kept(x: NDArray[np.float32], columns: NDArray[np.float32] | None, nbytes: int) -> _Sums:
    """The sums of a tensor that is not encoded: no error and no time."""
    return _sums(x, x, columns, nbytes, 0.0, 0.0)


def _sums(
    x: NDArray[np.float32],
    decoded: NDArray[np.float32],
    columns: NDArray[np.float32] | None,
    nbytes: int,
    encoding: float,
    decoding: float,
) -> _Sums:
    found = decoded.astype(np.float64)
    exact = x.astype(np.float64)
    lost = (exact - found) ** 2
    weights = 1.0 if columns is None else columns.astype(np.float64)
    return {
        "weights": x.size, "bytes": nbytes, "lost": lost.sum(), "size": (exact**2).sum(),
        "weighted_lost": (weights * lost).sum(), "weighted_size": (weights * exact**2).sum(),
        "max": math.sqrt(lost.max()), "product": (exact * found).sum(), "found": (found**2).sum(),
        "encoding": encoding, "decoding": decoding, "encoded": x.size if encoding else 0,
    }  # fmt: skip


def _add(a: _Sums, b: _Sums) -> _Sums:
    return {key: max(a[key], b[key]) if key == "max" else a[key] + b[key] for key in a}


def _finish(target: Target, tensor: str | None, s: _Sums, encoded_as: str | None = None) -> Measure:
    bits = 8 * s["bytes"] / s["weights"]
    if tensor is None:
        bits = target.bits_per_weight or bits
        encoded_as = None if target.file_type else target.name
    return Measure(
        type=target.name, tensor=tensor, weights=int(s["weights"]), bits_per_weight=bits,
        rmse=math.sqrt(s["lost"] / s["weights"]), error=_root(s["lost"], s["size"]),
        weighted_error=_root(s["weighted_lost"], s["weighted_size"]), max_error=float(s["max"]),
        cosine=float(s["product"] / math.sqrt(s["size"] * s["found"])) if s["size"] * s["found"] > 0 else 1.0,
        encode_speed=s["encoded"] / s["encoding"] / 1e6 if s["encoding"] else 0.0,
        decode_speed=s["encoded"] / s["decoding"] / 1e6 if s["decoding"] else 0.0,
        file_type=target.file_type, encoded_as=encoded_as,
    )  # fmt: skip


def _root(lost: float, size: float) -> float:
    return math.sqrt(lost / size) if size > 0 else 0.0
