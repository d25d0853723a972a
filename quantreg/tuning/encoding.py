"""Encode one matrix with error feedback, and keep it only if it helps on tokens that it was not fitted to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.devices import Device
from quantreg.dispatch import decode_slab, encode_slab, quantize
from quantreg.errors import NonFiniteError
from quantreg.fitting import fit
from quantreg.parameters import TensorContext
from quantreg.qtype import QuantType
from quantreg.registry import registry
from quantreg.tuning.choice import Chooser
from quantreg.tuning.feedback import Factor, feedback

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.codec import RowCodec
    from quantreg.parameters import Fitted

    Floats = NDArray[np.float32]

__all__ = [
    "Across",
    "Encoded",
    "Part",
    "chooser_of",
    "encode_matrix",
    "encode_rows",
    "joined",
    "row_spans",
    "takes_feedback",
    "why_no_feedback",
]

ROWS = 1024  # rows that are encoded together; the bytes must not depend on the number of threads
FEWEST_ROWS = 256  # of wide matrices, which otherwise would need much memory, and have too few parts for many threads
WEIGHTS = 1 << 22  # that are encoded together, unless they are fewer rows than that
LEAST = 0.01  # of the mean importance, for columns whose inputs say little
SHARE = 0.5  # of what earlier matrices got wrong, that a matrix makes up for: all of it fits the text too closely
MOST_BYTES_OF_BLOCK = 4096  # finding codes flips each bit of a block


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded matrix.

    - ``data``: uint8 (rows, bytes per row).
    - ``plain``, ``tuned``: the error of the outputs on held-out tokens with the ordinary bytes and with feedback,
      relative to the outputs. ``tuned`` is None if the type takes no feedback.
    - ``kept``: whether ``data`` has feedback. ``reason``: why there was none to keep, or None.
    """

    data: "NDArray[np.uint8]"
    plain: float
    tuned: float | None
    kept: bool
    reason: str | None = None


def takes_feedback(qtype: QuantType) -> bool:
    """Whether error feedback works for a type: it encodes blocks that do not depend on the rest of their row."""
    return why_no_feedback(qtype) is None


def why_no_feedback(qtype: QuantType) -> str | None:
    """Return why error feedback does not work for a type, or None if it does."""
    if qtype.name in ("F32", "F16", "BF16", "F64"):
        return f"{qtype.name} rounds each weight alone"
    if qtype.block_size <= 0 or not qtype.codec.can_encode:
        return f"{qtype.name} does not encode blocks"
    if qtype.row_header_size:
        return f"the rows of {qtype.name} have a header"
    if getattr(qtype.codec, "whole_rows", False):
        return f"{qtype.name} encodes whole rows"
    return None


@dataclass(frozen=True, slots=True)
class Across:
    """What a matrix needs in order to make up for what those before it got wrong. See `quantreg.tuning.across`.

    - ``drift``: (X - Y)^T Y, float32 (cols, cols). All zeros if nothing is known of it.
    - ``held_out``: X of the tokens whose Y are held out, float32 (tokens, cols).
    """

    drift: "Floats"
    held_out: "Floats"
    _there: list[Any] = field(default_factory=list)
    _lock: Any = field(default_factory=Lock)

    def _sent(self, device: Device) -> Any:
        """The transposed ``drift`` on the device, where it goes when the first thread asks."""
        with self._lock:
            if not self._there:
                self._there.append(device.keep(np.ascontiguousarray(self.drift.T)))
            return self._there[0]

    def target(self, w: "Floats", f: Factor) -> "Floats":
        """What rows w, float32 (rows, cols), of a matrix with this factor should become: `SHARE` of the way towards
        w + w drift H^-1.
        """
        upper = f.there()[0]
        values = np.array(w.T, order="C")
        there = f.device.errors(values)
        for matrix in (self._sent(f.device), upper, upper.T):
            there.changed(0, len(values))
            values[:] = there.product(matrix, 0, len(values))
        values *= np.float32(SHARE)
        values += w.T
        return np.ascontiguousarray(values.T)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a matrix, encoded.

    - ``plain``, ``tuned``: uint8 (rows, bytes per row), without feedback and with it. ``tuned`` is None without any.
    - ``outputs``: the squares of the outputs of the rows on held-out tokens, added up; ``wrong`` and ``left``: those of
      their errors, without feedback and with it.
    - ``reason``: why there is no feedback, or None.
    """

    plain: "NDArray[np.uint8]"
    tuned: "NDArray[np.uint8] | None"
    outputs: float
    wrong: float
    left: float = 0.0
    reason: str | None = None


def row_spans(rows: int, cols: int) -> list[tuple[int, int]]:
    """The rows [first, last) of each part of a matrix."""
    step = ROWS
    while step > FEWEST_ROWS and step * cols > WEIGHTS:
        step //= 2
    return [(first, min(first + step, rows)) for first in range(0, rows, step)]


def encode_matrix(
    w: "Floats",
    qtype: QuantType,
    name: str,
    factored: Factor,
    importance: "Floats",
    held_out: "Floats",
    parameters: "Fitted | None" = None,
    context: "TensorContext | None" = None,
    workers: Callable[[Callable[[Any], None], "list[Any]"], None] | None = None,
    sweeps: int = 4,
) -> Encoded:
    """Encode w, float32 (rows, cols).

    ``importance`` is float32 (cols,), as the ordinary encoder takes it. ``held_out`` holds inputs that the factor does
    not know, float32 (tokens, cols). ``workers(work, items)`` calls work with each item, on threads or not.
    """
    parts: dict[int, Part] = {}

    def work(span: tuple[int, int]) -> None:
        start, stop = span
        rows = w[start:stop]
        parts[start] = encode_rows(
            rows, start, qtype, name, factored, importance, held_out, parameters, context, None, sweeps
        )

    spans = row_spans(*w.shape)
    if workers is None:
        for span in spans:
            work(span)
    else:
        workers(work, spans)
    return joined([parts[start] for start, _ in spans])


def joined(parts: "Sequence[Part]") -> Encoded:
    """The matrix of some parts, with feedback in all of them or in none."""
    plain = np.concatenate([part.plain for part in parts])
    size = sum(part.outputs for part in parts)
    before = sum(part.wrong for part in parts) / size if size else 0.0
    reason = next((part.reason for part in parts if part.reason), None)
    if reason is not None:
        return Encoded(plain, before, None, False, reason)
    after = sum(part.left for part in parts) / size if size else 0.0
    if not after < before:
        return Encoded(plain, before, after, False, "feedback did not help on other tokens")
    return Encoded(np.concatenate([part.tuned for part in parts if part.tuned is not None]), before, after, True)


def encode_rows(
    w: "Floats",
    start: int,
    qtype: QuantType,
    name: str,
    factored: Factor,
    importance: "Floats",
    held_out: "Floats",
    parameters: "Fitted | None" = None,
    context: "TensorContext | None" = None,
    across: Across | None = None,
    sweeps: int = 4,
) -> Part:
    """Encode rows w, float32 (rows, cols), of a matrix, the first of which has the number ``start``.

    With ``across``, the factor and ``held_out`` are those of the model whose earlier matrices are encoded. See
    `encode_matrix` for the other arguments.
    """
    codec = qtype.codec_for(parameters, context)
    plain = _plain(w, qtype, codec, importance, name, start)

    def error(data: "NDArray[np.uint8]") -> float:
        decoded = _decoded(qtype, codec, data, w.shape[1])
        if across is None or not len(held_out):
            return _energy(w - decoded, held_out, factored.device)
        both = np.concatenate([across.held_out, held_out], axis=1)  # X w^T - Y decoded^T
        return _energy(np.concatenate([w, -decoded], axis=1), both, factored.device)

    outputs = _energy(w, held_out if across is None else across.held_out, factored.device)
    wrong = error(plain)
    reason = why_no_feedback(qtype) or factored.reason
    if reason is None and not np.isfinite(w).all():
        reason = "weights hold NaN or infinity"
    if reason is not None:
        return Part(plain, None, outputs, wrong, reason=reason)
    chooser = chooser_of(qtype, codec, parameters, plain)
    target = w if across is None else across.target(w, factored)
    encode = _encoder(target, qtype, codec, importance, name)

    def decode(blocks: "NDArray[np.uint8]") -> "Floats":
        out = np.empty((len(blocks), qtype.block_size), np.float32)
        decode_slab(qtype, codec, np.ascontiguousarray(blocks), out, tensor=name)
        return out

    try:
        tuned = feedback(target, factored, encode, decode, chooser, qtype.block_size, sweeps).reshape(plain.shape)
    except NonFiniteError:  # what other columns got wrong made these too large
        return Part(plain, None, outputs, wrong, reason=f"feedback makes weights too large for {qtype.name}")
    return Part(plain, tuned, outputs, wrong, error(tuned))


def _plain(w, qtype, codec, importance, name, start=0):
    data = np.empty((len(w), qtype.row_bytes(w.shape[1])), np.uint8)
    encode_slab(
        qtype, w, data, _used(qtype, importance), scorer=registry.scorer(qtype), first_row=start, tensor=name,
        codec=codec,
    )  # fmt: skip
    return data


def _used(qtype, importance):
    """The importance as the encoder takes it: none if it reads none; ones where all are zero, which say nothing."""
    if not qtype.codec.has_scorer:
        return None
    return importance if importance.any() else np.ones_like(importance)


def _encoder(
    w: "Floats", qtype: QuantType, codec: "RowCodec", importance: "Floats", name: str
) -> "Callable[..., NDArray[np.uint8]]":
    """Return a function (x, first, last) that encodes x as columns [first, last) of rows w.

    The importance is that of the ordinary encoder.
    """
    used = _used(qtype, importance)
    if used is not None:  # a block whose inputs were always zero needs scales, too
        used = np.maximum(used, np.float32(LEAST) * used.mean())
    scores: Floats | None = None
    if used is not None and (registry.scorer(qtype) is not None or qtype.block_size < 256):
        # The scores of a row may depend on all of it, such as on its mean square: they are those of the whole row.
        scores = np.empty_like(w)
        codec.score_rows(w, used, scores)

    def encode(x: "Floats", first: int, last: int) -> "NDArray[np.uint8]":
        weights = used[first:last] if scores is None and used is not None else None
        if scores is not None:
            weights = scores[:, first:last]
        return _block(qtype, codec, x, weights, name)

    return encode


def _block(qtype, codec, x, importance, name):
    out = np.empty((len(x), qtype.type_size), np.uint8)
    if importance is not None:
        importance = np.ascontiguousarray(importance)
    encode_slab(qtype, np.ascontiguousarray(x), out, importance, tensor=name, codec=codec)
    return out


def _decoded(qtype, codec, data, cols):
    out = np.empty((len(data), cols), np.float32)
    decode_slab(qtype, codec, data, out)
    return out


def _energy(w: "Floats", inputs: "Floats", device: Device) -> float:
    """|X W^T|^2 over the inputs X, or without any of them |W|^2."""
    return device.energy(inputs, w) if len(inputs) else float(np.einsum("ij,ij->", w, w, dtype=np.float64))


def chooser_of(
    qtype: QuantType, codec: "RowCodec", parameters: "Fitted | None", plain: "NDArray[np.uint8]"
) -> Chooser | None:
    """The chooser of a type; its points hang on the parameters that are fitted to a tensor, if there are any."""
    if qtype.type_size > MOST_BYTES_OF_BLOCK:
        return None
    if parameters is None and not qtype.by_matrix:
        return _common_chooser(qtype)
    return _find(qtype, codec, plain.reshape(-1, qtype.type_size)[:64])


@lru_cache(maxsize=64)
def _common_chooser(qtype: QuantType) -> Chooser | None:
    x = np.random.default_rng(0).standard_normal((12, qtype.block_size)).astype(np.float32)
    given = np.ones(qtype.block_size, np.float32) if qtype.requires_importance else None
    return _find(qtype, qtype.codec, quantize(x, qtype, given, threads=1))


def _find(qtype: QuantType, codec: "RowCodec", examples: "NDArray[np.uint8]") -> Chooser | None:
    def decode(blocks: "NDArray[np.uint8]") -> "Floats":
        out = np.empty((len(blocks), qtype.block_size), np.float32)
        with np.errstate(all="ignore"):
            decode_slab(qtype, codec, np.ascontiguousarray(blocks), out)
        return out

    return Chooser.of(decode, qtype.type_size, qtype.block_size, examples)


def fitted(w: "Floats", qtype: QuantType, importance: "Floats", name: str) -> "Fitted | None":
    """What a type fits to a matrix before it is encoded, or None."""
    return fit(w, qtype, importance, tensor=name) or None if qtype.parameters is not None else None
