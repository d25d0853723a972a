"""File types as recipes: turn a model's header and a name such as Q4_K_M into a `Plan`, without reading tensor data."""

from quantreg.recipes.architecture import Architecture, Keep
from quantreg.recipes.catalog import architectures, file_types
from quantreg.recipes.filetype import FileType
from quantreg.recipes.openplan import OpenPlan
from quantreg.recipes.options import PlanOptions, parse_layers, parse_override, parse_tensor_type
from quantreg.recipes.planfile import PlanFile, write_plan
from quantreg.recipes.planner import plan_header
from quantreg.recipes.plans import MetadataEdit, Plan, StoredParameter, TensorPlan
from quantreg.recipes.rules import Candidate, Choice, Row, condition

__all__ = [
    "Architecture",
    "Candidate",
    "Choice",
    "FileType",
    "Keep",
    "MetadataEdit",
    "OpenPlan",
    "Plan",
    "PlanFile",
    "PlanOptions",
    "Row",
    "StoredParameter",
    "TensorPlan",
    "architectures",
    "condition",
    "file_types",
    "parse_layers",
    "parse_override",
    "parse_tensor_type",
    "plan_header",
    "write_plan",
]
