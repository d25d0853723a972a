"""Importance matrices: reading them, and which tensors of a model they cover."""

from quantreg.importance.matrix import ImatrixLike, ImportanceMatrix

__all__ = ["ImatrixLike", "ImportanceMatrix"]
