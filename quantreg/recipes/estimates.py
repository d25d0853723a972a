"""How much memory the weights of a model take, if only their number is known."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from quantreg.errors import PlanError
from quantreg.qtype import QuantType
from quantreg.recipes.catalog import type_or_file_type
from quantreg.recipes.filetype import FileType
from quantreg.recipes.planner import plan_header
from quantreg.recipes.shapes import SHAPES, Shape

if TYPE_CHECKING:
    from quantreg.recipes.plans import Plan

__all__ = ["Estimate", "estimate", "estimate_memory_gb", "estimate_plan"]


class Estimate(NamedTuple):
    """The size of a model that is known only by its number of weights.

    - ``type``: the type or file type.
    - ``weights``: how many weights were counted.
    - ``bytes``: the size of the tensor data.
    - ``assumed``: what was assumed about the model, as a sentence; "" if nothing was.
    """

    type: str
    weights: int
    bytes: int
    assumed: str = ""

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data per weight."""
        return 8 * self.bytes / self.weights

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON-ready data; ``gigabytes`` are 10^9 bytes."""
        return {
            "type": self.type,
            "weights": self.weights,
            "bytes": self.bytes,
            "gigabytes": self.bytes / 1e9,
            "bits_per_weight": self.bits_per_weight,
            "assumed": self.assumed or None,
        }


def estimate(weights: float, name: "str | int | QuantType | FileType") -> Estimate:
    """Estimate the size of a model with this many weights, in a type or a file type, with what was assumed.

    In a type, every weight takes as many bits as the type says, and nothing is assumed. A file type gives its tensors
    different types, so it takes the plans of published models of about this size; see `estimate_plan`. A name
    that is both, such as Q4_0, means the type. Raises UnknownTypeError, and PlanError for a file type that cannot be
    planned.
    """
    found = type_or_file_type(name)
    if isinstance(found, FileType):
        return estimate_plan(weights, found)
    return Estimate(found.name, round(weights), round(weights * found.bits_per_weight / 8))


def estimate_memory_gb(params_billion: float, qtype: "str | int | QuantType | FileType") -> float:
    """Gigabytes (10^9 bytes) that params_billion * 10^9 weights take in a type: 3.9375 for 7.0 in Q4_K.

    Counts weights only: no context. For a file type such as Q4_K_M it is an estimate, as for a published model of
    about this size: 4.91 for 8.0. Raises UnknownTypeError.
    """
    found = type_or_file_type(qtype)
    if isinstance(found, FileType):
        return estimate_plan(params_billion * 1e9, found).bytes / 1e9
    return params_billion * found.bits_per_weight / 8


def estimate_plan(weights: float, file_type: FileType) -> Estimate:
    """Estimate the size of a model with this many weights in a file type, from the plans of published models.

    If a published model is called by this size, its shape is taken. Otherwise the bits per weight lie between those of
    the next smaller and the next larger model, in proportion to the logarithm of the number of weights; beyond the
    ends of the table they are those of the last model. The plans are those without an importance matrix. Raises
    PlanError for a file type that does not change tensors, or whose rules fail.
    """
    if file_type.only_copy:
        raise PlanError(f"{file_type.name} keeps the types of a model: give the model's file instead of a size")
    for shape in SHAPES:
        if shape.called is not None and math.isclose(shape.called * 1e9, weights, rel_tol=1e-6):
            size = _plan(shape, file_type).bytes
            return Estimate(file_type.name, shape.weights, size, f"assumed the shape of {shape}")
    below = max((shape for shape in SHAPES if shape.weights <= weights), key=lambda s: s.weights, default=None)
    above = min((shape for shape in SHAPES if shape.weights > weights), key=lambda s: s.weights, default=None)
    if below is None or above is None:
        nearest = below or above
        assert nearest is not None  # the table is not empty
        bits, words = _plan(nearest, file_type).bits_per_weight, f"assumed as many bits per weight as in {nearest}"
    else:
        share = math.log(weights / below.weights) / math.log(above.weights / below.weights)
        low, high = (_plan(shape, file_type).bits_per_weight for shape in (below, above))
        bits, words = low + (high - low) * share, f"assumed a shape between {below} and {above}"
    return Estimate(file_type.name, round(weights), round(weights * bits / 8), words)


def _plan(shape: Shape, file_type: FileType) -> "Plan":
    return plan_header(shape, file_type, check=False)
