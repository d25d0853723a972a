"""Encode one matrix with error feedback, and keep it only if it helps on tokens that it was not fitted to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.dispatch import decode_slab, encode_slab, quantize
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

__all__ = ["Encoded", "encode_matrix", "takes_feedback"]

ROWS = 1024  # rows that are encoded together; the bytes must not depend on the number of threads
MOST_BYTES_OF_BLOCK = 4096  # finding codes flips each bit of a block


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded matrix.

    - ``data``: uint8 (rows, bytes per row). ``parameters``: what the type fitted, or None.
    - ``plain``, ``tuned``: the error of the outputs on held-out tokens with the ordinary bytes and with feedback,
      relative to the outputs. ``tuned`` is None if the type takes no feedback.
    - ``kept``: whether ``data`` has feedback.
    """

    data: "NDArray[np.uint8]"
    parameters: "Fitted | None"
    plain: float
    tuned: float | None
    kept: bool


def takes_feedback(qtype: QuantType) -> bool:
    """Whether error feedback works for a type: it encodes blocks that do not depend on the rest of their row."""
    return (
        qtype.block_size > 0
        and not qtype.row_header_size
        and not getattr(qtype.codec, "whole_rows", False)
        and qtype.codec.can_encode
        and qtype.name not in ("F32", "F16", "BF16", "F64")
    )


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
    sweeps: int = 2,
) -> Encoded:
    """Encode w, float32 (rows, cols).

    ``importance`` is float32 (cols,), as the ordinary encoder takes it. ``held_out`` holds inputs that the factor does
    not know, float32 (tokens, cols). ``workers(work, items)`` calls work with each item, on threads or not.
    """
    codec = qtype.codec_for(parameters, context)
    plain = _plain(w, qtype, codec, importance, name)
    if not takes_feedback(qtype) or w.shape[1] % qtype.block_size:
        return Encoded(plain, parameters, _error(w, _decoded(qtype, codec, plain, w.shape[1]), held_out), None, False)
    chooser = _chooser(qtype, codec, parameters, plain)
    encode = _encoder(w, qtype, codec, importance, name)

    def decode(blocks: "NDArray[np.uint8]") -> "Floats":
        out = np.empty((len(blocks), qtype.block_size), np.float32)
        decode_slab(qtype, codec, np.ascontiguousarray(blocks), out, tensor=name)
        return out

    tuned = np.empty_like(plain)

    def work(first: int) -> None:
        rows = slice(first, first + ROWS)
        one = feedback(
            w[rows], factored, lambda x, a, b: encode(x, first, a, b), decode, chooser, qtype.block_size, sweeps
        )
        tuned[rows] = one.reshape(len(one), -1)

    starts = list(range(0, len(w), ROWS))
    if workers is None:
        for first in starts:
            work(first)
    else:
        workers(work, starts)
    before = _error(w, _decoded(qtype, codec, plain, w.shape[1]), held_out)
    after = _error(w, _decoded(qtype, codec, tuned, w.shape[1]), held_out)
    kept = after < before
    return Encoded(tuned if kept else plain, parameters, before, after, kept)


def _plain(w, qtype, codec, importance, name):
    data = np.empty((len(w), qtype.row_bytes(w.shape[1])), np.uint8)
    encode_slab(qtype, w, data, _used(qtype, importance), scorer=registry.scorer(qtype), tensor=name, codec=codec)
    return data


def _used(qtype, importance):
    """The importance as the encoder takes it: none if it reads none; ones where all are zero, which say nothing."""
    if not qtype.codec.has_scorer:
        return None
    return importance if importance.any() else np.ones_like(importance)


def _encoder(w, qtype, codec, importance, name):
    """Return a function that encodes some columns of rows from a first row on, with the importance of the ordinary encoder."""
    used = _used(qtype, importance)
    if used is None:
        return lambda x, first, a, b: _block(qtype, codec, x, None, name)
    scorer = registry.scorer(qtype)
    if scorer is not None or qtype.block_size < 256:
        # The scores of a row may depend on all of it, such as on its mean square: they are those of the whole row.
        scores = np.empty_like(w)
        codec.score_rows(w, used, scores)
        return lambda x, first, a, b: _block(qtype, codec, x, scores[first : first + len(x), a:b], name)
    return lambda x, first, a, b: _block(qtype, codec, x, used[a:b], name)


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


def _error(w: "Floats", decoded: "Floats", inputs: "Floats") -> float:
    """|X (W - Q)^T|^2 / |X W^T|^2 over the inputs X, or without any of them |W - Q|^2 / |W|^2."""
    wrong, right = w - decoded, w
    if len(inputs):
        wrong, right = inputs @ wrong.T, inputs @ right.T
    size = float(np.einsum("ij,ij->", right, right, dtype=np.float64))
    return float(np.einsum("ij,ij->", wrong, wrong, dtype=np.float64)) / size if size else 0.0


def _chooser(
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
