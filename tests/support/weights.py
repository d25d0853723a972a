"""Rows of weights and hypothesis strategies for them: those of the conformance kit."""

from quantreg.testing import importances as importance
from quantreg.testing import make_rows, rows
from quantreg.testing.samples import KINDS

__all__ = ["KINDS", "importance", "make_rows", "rows"]
