"""File types as recipes: from a model's header and a name like Q4_K_M to a `Plan`. Reads no tensor data."""

from quantreg.recipes.builtin import BUILT_IN
from quantreg.recipes.filetype import FileType, FileTypes
from quantreg.recipes.options import PlanOptions, parse_layers, parse_override, parse_tensor_type
from quantreg.recipes.planfile import read_plan, write_plan
from quantreg.recipes.planner import plan
from quantreg.recipes.plans import MetadataEdit, Plan, TensorPlan
from quantreg.recipes.rules import Candidate, Choice, Row, condition

__all__ = [
    "Candidate",
    "Choice",
    "FileType",
    "MetadataEdit",
    "Plan",
    "PlanOptions",
    "Row",
    "TensorPlan",
    "condition",
    "file_types",
    "parse_layers",
    "parse_override",
    "parse_tensor_type",
    "plan",
    "read_plan",
    "write_plan",
]


def _hooks():
    """The plugins' implementations of register_recipes, in the order in which the plugins were loaded."""
    from quantreg.registry import registry

    return registry.hook.register_recipes.get_hookimpls()


def _report(hook, error):
    from quantreg.registry import registry

    registry.blame("register_recipes", hook, error)


def _why_missing(name):
    from quantreg.registry import registry

    return registry.why_missing(name)


def _find_type(name):
    from quantreg.registry import types

    return types.get(name)


file_types = FileTypes(BUILT_IN, _hooks, _report, _why_missing, _find_type)
