"""Checks of importance that people and plugins give: wrong values destroy weights without any other sign."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quantreg.arrays import as_array, check_numbers
from quantreg.errors import CodecError, NonFiniteError, PluginError, ShapeError
from quantreg.faults import PLUGIN_ERRORS
from quantreg.qtype import QuantType
from quantreg.registry import registry

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BLOWN_UP_BY_ZEROS",
    "are_foreign",
    "are_good",
    "ask_scorer",
    "check_codec_scores",
    "check_importance",
    "mostly_zero",
    "revived",
]

# The types whose decoded values exceed the largest weight several times if most columns of a block have no importance:
# nothing keeps the scale of such a block small. A test measures this for every type.
BLOWN_UP_BY_ZEROS: tuple[str, ...] = ("IQ1_S", "IQ1_M")
_SUPER_BLOCK = 256
_LARGEST = float(np.finfo(np.float32).max)

# The memory layout that compiled codecs accept.
_PLAIN: tuple[Literal["C_CONTIGUOUS"], Literal["ALIGNED"]] = ("C_CONTIGUOUS", "ALIGNED")


def check_importance(
    x: "NDArray[Any]", importance: "ArrayLike", qtype: QuantType, tensor: str | None
) -> "tuple[NDArray[Any], Literal['columns', 'weights']]":
    """Return (values, kind): column statistics as float32 (matrices, cols), or error weights as they are.

    Rows of zeros become ones, with a warning. Raises ShapeError for a shape that fits neither, NonFiniteError for
    values that are negative or not finite in float32.
    """
    kind: Literal["columns", "weights"] = "columns"
    given = as_array(importance, "importance")
    check_numbers(given, "importance")
    cols = x.shape[-1]
    if given.shape == (*x.shape[:-2], cols) or given.shape == (cols,):
        with np.errstate(over="ignore"):  # what overflows becomes infinity, which is refused below
            given = np.require(given, np.float32, _PLAIN).reshape(-1, cols)
    elif given.shape == x.shape:
        kind = "weights"
    else:
        stack = f" or {(*x.shape[:-2], cols)}" if x.ndim > 2 else ""
        raise ShapeError(
            f"importance has shape {given.shape}, expected ({cols},){stack} for column statistics, or {x.shape} for "
            "error weights: reshape it"
        )
    if not are_good(given):
        raise NonFiniteError("importance holds NaN, infinity or negative values: replace them, for example by 0")
    values, dead = revived(given)
    where = f"{tensor}: " if tensor else ""
    if dead and qtype.codec.has_scorer:
        rows = f"{dead} of {values.size // cols} rows" if values.size > cols else "every column"
        warnings.warn(f"{where}importance is all zeros in {rows}: ones are used instead", RuntimeWarning, stacklevel=3)
    if kind == "columns" and qtype.name in BLOWN_UP_BY_ZEROS and (share := mostly_zero(values)):
        warnings.warn(
            f"{where}{share:.0%} of the importance is zero, and {qtype.name} decodes such columns to several times the "
            "largest weight: raise it, as in np.maximum(importance, 0.01 * importance.mean())",
            RuntimeWarning,
            stacklevel=3,
        )
    if kind == "columns":
        matrices = int(np.prod(x.shape[:-2], dtype=np.int64))
        values = np.broadcast_to(values, (matrices, cols))
    return values, kind


def are_good(values: "NDArray[Any]") -> bool:
    """Whether all values are finite in float32 and not negative."""
    return not values.size or bool(values.min() >= 0 and values.max() <= _LARGEST)  # NaN fails both


def revived(values: "NDArray[Any]") -> "tuple[NDArray[Any], int]":
    """Return (values in which ones replace each row of zeros, how many rows there were). Copies only if there are any.

    A row of zeros says nothing about its weights, and most types would lose them.
    """
    dead = ~values.any(axis=-1)
    count = int(dead.sum())
    if count and values.shape[-1]:
        values = values.copy()
        values[dead] = 1
        return values, count
    return values, 0


def mostly_zero(rows: "NDArray[np.float32]") -> float:
    """Return the share of zeros in rows of importance if some super-block is mostly, but not all, zeros; else 0."""
    cols = rows.shape[-1]
    if not cols or cols % _SUPER_BLOCK:
        return 0.0
    zeros = (rows == 0).reshape(-1, _SUPER_BLOCK).mean(axis=1)
    return float(zeros.mean()) if ((zeros > 0.5) & (zeros < 1)).any() else 0.0


def check_codec_scores(
    qtype: QuantType, rows: "NDArray[np.float32]", columns: "NDArray[np.float32]", tensor: str | None
) -> None:
    """Raise CodecError if the scores of a codec, for these column statistics, are negative or not finite."""
    scores = np.empty_like(rows)
    qtype.codec.score_rows(rows, columns, scores)
    if not are_good(scores):
        raise CodecError(
            f"{tensor or 'a tensor'}: the codec of {qtype.name} scores weights with NaN, infinity or negative values: "
            "repair the plugin"
        )


def ask_scorer(
    scorer: "Callable[..., Any]",
    qtype: QuantType,
    tensor: str | None,
    rows: "NDArray[np.float32]",
    columns: "NDArray[np.float32] | None",
) -> "NDArray[np.float32] | None":
    """Return what the hook score_importance makes of the column statistics, or the statistics if it abstains.

    Raises PluginError if a plugin fails; ShapeError or NonFiniteError, which name the plugin, for a wrong result.
    """
    try:
        answer = scorer(qtype=qtype, tensor=tensor, weights=rows, columns=columns)
        if answer is None:
            return columns
        weights = np.require(answer, np.float32, _PLAIN)
    except PLUGIN_ERRORS as error:
        raise PluginError(f"{tensor or 'a tensor'}, {registry.failed('score_importance', error)}") from error
    fits = weights.shape in ((rows.shape[1],), rows.shape)
    if fits and are_good(weights):
        return revived(weights)[0]
    who = registry.answering(scorer, qtype=qtype, tensor=tensor, weights=rows, columns=columns)
    said = f"{tensor or 'a tensor'}: score_importance of {who} returned"
    if fits:
        raise NonFiniteError(f"{said} NaN, infinity or negative values: return finite values of 0 and above")
    raise ShapeError(
        f"{said} shape {weights.shape}, expected ({rows.shape[1]},) to replace the column statistics, or {rows.shape} "
        "for error weights"
    )


def are_foreign(qtype: QuantType) -> bool:
    """Whether a type's scores come from a compiled codec that is not quantreg's. A PythonCodec checks its own."""
    return qtype.codec.has_scorer and qtype.codec.level != "python" and not registry.is_built_in(qtype)
