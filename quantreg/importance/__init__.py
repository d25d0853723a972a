"""Importance matrices: reading them, and what they cover of a model."""

from quantreg.importance.matrix import ImportanceMatrix

__all__ = ["ImportanceMatrix"]
