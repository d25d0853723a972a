"""What an importance matrix says about each tensor: how large its inputs are, and how they are distributed."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantreg.importance.stored import divided

if TYPE_CHECKING:
    from quantreg.importance.matrix import ImportanceMatrix

__all__ = ["LayerStatistics", "TensorStatistics", "by_layer", "statistics"]

_ACTIVE = np.float32(1e-5)
_LAYER = re.compile(r"(?<=blk\.)\d+(?=\.)")
_Row = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Statistics of one entry, over its columns. Experts that were never reached do not count.

    A value is the mean of the squared activations of a column.

    - ``layer``: the number of the layer, or None. ``role``: the name without its layer, such as "attn_q".
    - ``total``, ``least``, ``most``, ``mean``, ``deviation``: the sum of the values, the smallest, the largest, their
      mean and standard deviation.
    - ``n_values``: how many values there are. ``active``: the share of values above 0.00001.
    - ``entropy``: of the values as shares of their sum, in bits. It is at most log2(n_values), for equal values.
    - ``outliers``: the share of values more than one standard deviation above the mean.
    - ``cosine``: the cosine of the angle between the sums and those of the same tensor one layer before; 0 if there is
      none.

    The arithmetic is float32 in the order of the columns, as in llama-imatrix, so that the same digits come out.
    """

    name: str
    layer: int | None
    role: str
    total: float
    least: float
    most: float
    mean: float
    deviation: float
    active: float
    n_values: int
    entropy: float
    outliers: float
    cosine: float

    @property
    def relative_entropy(self) -> float:
        """The entropy divided by the highest that it can be."""
        return self.entropy / math.log2(self.n_values) if self.n_values > 1 else math.nan


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Means over the tensors of a layer, weighted by their number of columns. See `TensorStatistics`."""

    layer: int
    total: float
    outliers: float
    cosine: float


def statistics(matrix: "ImportanceMatrix") -> list[TensorStatistics]:
    """Statistics of all entries, by role and then from the largest total to the smallest."""
    found = []
    for name in matrix:
        sums = matrix.sums(name)
        counts = matrix.counts(name) or (1,)
        rows = divided(sums, counts).reshape(len(counts), -1)
        values = rows[np.array(counts) > 0].reshape(-1)
        if values.size:
            found.append(_of_entry(name, values, _cosine(matrix, name, sums)))
    return sorted(found, key=lambda each: (each.role, -each.total))


def by_layer(tensors: list[TensorStatistics]) -> list[LayerStatistics]:
    """The means over the tensors of each layer, in the order of the layers."""
    layers: dict[int, list[TensorStatistics]] = {}
    for tensor in tensors:
        if tensor.layer is not None:
            layers.setdefault(tensor.layer, []).append(tensor)
    return [_of_layer(layer, layers[layer]) for layer in sorted(layers)]


def _of_layer(layer: int, tensors: list[TensorStatistics]) -> LayerStatistics:
    n_values = sum(tensor.n_values for tensor in tensors)
    total, outliers, cosine = (
        math.fsum(tensor.n_values * value for tensor, value in zip(tensors, values, strict=True)) / n_values
        for values in zip(*((t.total, t.outliers, t.cosine) for t in tensors), strict=True)
    )
    return LayerStatistics(layer, total, outliers, cosine)


@np.errstate(all="ignore")
def _of_entry(name: str, values: _Row, cosine: float) -> TensorStatistics:
    size = np.float32(values.size)
    total = _sum(values)
    mean = total / size
    deviation = np.sqrt(np.maximum(np.float32(0), _sum(values * values) / size - mean * mean))
    entropy = np.float32(0)
    if total > 0:
        shares = values / total
        shares = shares[shares > 0]
        entropy = _sum(-shares * np.log2(shares))
    outliers = int(np.count_nonzero((values - mean) / deviation > 1)) if deviation > 0 else 0
    layer, role = _parts(name)
    return TensorStatistics(
        name,
        layer,
        role,
        float(total),
        float(values.min()),
        float(values.max()),
        float(mean),
        float(deviation),
        float(1 - np.float32(np.count_nonzero(values <= _ACTIVE)) / size),
        values.size,
        float(entropy),
        outliers / values.size,
        cosine,
    )


@np.errstate(all="ignore")
def _cosine(matrix: "ImportanceMatrix", name: str, sums: _Row) -> float:
    """The cosine of the angle to the same tensor one layer before."""
    match = _LAYER.search(name)
    before = f"{name[: match.start()]}{int(match[0]) - 1}{name[match.end() :]}" if match else ""
    if before not in matrix or not any(matrix.counts(before) or (1,)):
        return 0.0
    other = matrix.sums(before)
    if other.size != sums.size:
        return 0.0
    return float(_sum(sums * other) / (np.sqrt(_sum(sums * sums)) * np.sqrt(_sum(other * other))))


def _sum(values: _Row) -> np.float32:
    """The sum in float32, from the first value to the last, as a plain loop adds."""
    return np.add.accumulate(values, dtype=np.float32)[-1] if values.size else np.float32(0)


def _parts(name: str) -> tuple[int | None, str]:
    """The layer and the role in the name of a tensor: blk.3.attn_q.weight gives (3, "attn_q")."""
    words = name.split(".")
    layer = words[words.index("blk") + 1] if "blk" in words[:-1] else ""
    role = words[words.index("weight") - 1] if "weight" in words[1:] else name
    return int(layer) if layer.isdecimal() else None, role
