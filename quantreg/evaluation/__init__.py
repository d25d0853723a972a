"""Compare types on the weights of a model: error, size and speed, as numbers, as a curve and as a web page."""

from quantreg.evaluation.measure import Step, built_in_types, evaluate
from quantreg.evaluation.results import Conditions, Evaluation, Failed, Measure, Skipped, TextMeasure, TextResult
from quantreg.evaluation.web_page import page

__all__ = [
    "Conditions",
    "Evaluation",
    "Failed",
    "Measure",
    "Skipped",
    "Step",
    "TextMeasure",
    "TextResult",
    "built_in_types",
    "evaluate",
    "page",
]
