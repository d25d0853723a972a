"""Compare types on the weights of a model: error, size and speed, as numbers, as a curve and as a web page."""

from quantreg.evaluation.measure import Evaluation, Measure, Skipped, built_in_types, evaluate
from quantreg.evaluation.web_page import page

__all__ = ["Evaluation", "Measure", "Skipped", "built_in_types", "evaluate", "page"]
