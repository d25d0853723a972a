"""Fit the parameters of a type to a tensor or an array."""

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from quantreg.arrays import as_array, check_numbers, read_only
from quantreg.dispatch import SLAB_WEIGHTS, float32_rows, rows_per_slab
from quantreg.errors import CodecError, NonFiniteError, QuantregError, ShapeError
from quantreg.faults import PLUGIN_ERRORS, describe, row_error
from quantreg.parameters import Sample, TensorContext
from quantreg.qtype import QuantType
from quantreg.registry import types
from quantreg.scores import check_importance
from quantreg_kernels._run import first_nonfinite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from quantreg.dispatch import TypeKey
    from quantreg.parameters import Fitted

__all__ = ["check_sample", "fit", "fit_samples"]


def fit(
    x: "ArrayLike", qtype: "TypeKey", importance: "ArrayLike | None" = None, *, tensor: str | None = None
) -> "dict[str, NDArray[np.float32]]":
    """Fit the parameters of a type to an array, and return them: name -> float32 array; empty if the type has none.

    Pass the result to `quantreg.quantize` and `quantreg.dequantize`::

        parameters = quantreg.fit(x, "NVFP4")
        data = quantreg.quantize(x, "NVFP4", parameters=parameters)

    - ``x``: an array of shape (..., cols), as for `quantreg.quantize`.
    - ``importance``: None, or column statistics of shape (cols,) or x.shape[:-2] + (cols,).
    - ``tensor``: the name of the tensor, which the plugin may use.

    Raises UnknownTypeError, ShapeError, and CodecError if the plugin's function fails.
    """
    found = types[qtype]
    if found.parameters is None:
        return {}
    array = as_array(x, "x")
    if array.ndim == 0:
        raise ShapeError("x must have at least one dimension: the last one is the weights of a row")
    check_numbers(array, "x")
    found.row_bytes(array.shape[-1])  # raises ShapeError for a row that no encoder takes
    columns: NDArray[np.float32] | None = None
    if importance is not None:
        values, kind = check_importance(array, importance, found, tensor)
        if kind != "columns":
            raise ShapeError(
                f"importance has the shape of x, {array.shape}: to fit parameters pass column statistics of shape "
                f"({array.shape[-1]},)"
            )
        columns = values
    context = TensorContext(tensor, array.shape)
    matrices = array.reshape(context.n_experts, array.shape[-2] if array.ndim > 1 else 1, array.shape[-1])
    step = rows_per_slab(array.shape[-1], SLAB_WEIGHTS)

    def samples() -> Iterator[Sample]:
        for expert, matrix in enumerate(matrices):
            here = TensorContext(tensor, array.shape, expert=expert)
            row = None if columns is None else columns[expert]
            for first in range(0, len(matrix), step):
                rows = float32_rows(matrix[first : first + step])
                check_sample(rows, expert * len(matrix) + first, tensor)
                yield Sample(rows, row, here)

    return dict(fit_samples(found, samples(), context))


def check_sample(rows: "NDArray[np.float32]", first_row: int, tensor: str | None) -> None:
    """Refuse NaN and infinity, with the row, before a plugin's ``fit`` sees them. Raises NonFiniteError."""
    bad = first_nonfinite(np.ascontiguousarray(rows))
    if bad >= 0:
        row, column = first_row + bad // rows.shape[1], bad % rows.shape[1]
        raise row_error(SimpleNamespace(row=row, column=column), "", tensor)


def _protected(sample: Sample) -> Sample:
    """The sample with arrays that ``fit`` can only read."""
    importance = None if sample.importance is None else read_only(sample.importance)
    return Sample(read_only(sample.rows), importance, sample.context)


def fit_samples(qtype: QuantType, samples: Iterable[Sample], context: TensorContext) -> "Fitted":
    """Call the plugin's ``fit`` and check what it returns. Raises CodecError, naming tensor and type, if it fails."""
    assert qtype.parameters is not None
    if qtype.parameters.scope == "tensor" and 0 in context.shape:  # nothing to learn from
        return {name: np.zeros(shape, np.float32) for name, shape in qtype.parameters.shapes_for(context).items()}
    where = context.name or ("the model" if qtype.parameters.scope == "model" else "the tensor")
    try:
        values = qtype.parameters.fit(map(_protected, samples), context)
        return qtype.parameters.checked(qtype.name, values, context)
    except (ShapeError, NonFiniteError) as error:
        if ", parameters of " not in str(error):
            raise  # about the weights
        raise type(error)(f"{error}: correct what fit returns") from error
    except QuantregError:
        raise
    except PLUGIN_ERRORS as error:
        raise CodecError(f"{where}: fit of {qtype.name} failed: {describe(error)}: correct the function") from error
