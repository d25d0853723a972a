"""What a type costs: error, size and speed on the weights of a model, as numbers, a curve and a page."""

from quantreg.evaluation.measure import Evaluation, Measure, Skipped, built_in_types, evaluate
from quantreg.evaluation.page import page

__all__ = ["Evaluation", "Measure", "Skipped", "built_in_types", "evaluate", "page"]
