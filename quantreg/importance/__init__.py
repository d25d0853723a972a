"""Importance matrices: reading, adding up and writing them, and which tensors of a model they cover."""

from quantreg.importance.matrix import ImatrixLike, ImportanceMatrix
from quantreg.importance.statistics import LayerStatistics, TensorStatistics, by_layer
from quantreg.importance.stored import UNFINISHED
from quantreg.importance.sums import Sums
from quantreg.importance.writing import FORMATS, write_matrix

__all__ = [
    "FORMATS",
    "UNFINISHED",
    "ImatrixLike",
    "ImportanceMatrix",
    "LayerStatistics",
    "Sums",
    "TensorStatistics",
    "by_layer",
    "write_matrix",
]
