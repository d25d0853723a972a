"""A plan whose tensors may still get other types, each chosen one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from quantreg.recipes.calibration import Calibration, Importance, decided
from quantreg.recipes.catalog import file_types
from quantreg.recipes.checks import Checks
from quantreg.recipes.edits import labelled
from quantreg.recipes.filetype import FileType
from quantreg.recipes.fitted import with_parameters
from quantreg.recipes.model import ModelHeader
from quantreg.recipes.order import trimmed
from quantreg.recipes.plans import Plan, TensorPlan

if TYPE_CHECKING:  # the registry loads pluggy
    from quantreg.qtype import QuantType

__all__ = ["OpenPlan"]


class OpenPlan:
    """A plan and what it takes to give its tensors other types.

    - ``planned``: the plan. ``header``, ``imatrix``: what it was made with.
    - ``free``: the tensors whose types the file type decided, by name. No option names their types, and no rule keeps
      them as they are.
    """

    planned: Plan
    header: ModelHeader
    imatrix: "Importance | None"

    def __init__(
        self,
        planned: Plan,
        header: ModelHeader,
        imatrix: Importance | None = None,
        *,
        types: "Mapping[str, QuantType] | None" = None,
    ) -> None:
        if types is None:
            from quantreg.registry import types as registered  # loads pluggy, which takes more than 10 ms

            types = registered
        self.planned, self.header, self.imatrix = planned, header, imatrix
        self.free: dict[str, TensorPlan] = {t.name: t for t in planned.tensors if t.name in planned.free}
        self._types = types
        self._calibration = Calibration(planned.file_type, imatrix, planned.options)

    def entry(self, name: str) -> str | None:
        """The importance entry that a tensor would use, or None. Raises what `plan_header` raises about entries."""
        tensor = self.planned[name]
        return self._calibration.entry(name, tensor.source, trimmed(tensor.dims))

    def allows(self, name: str, qtype: "QuantType") -> bool:
        """Whether a tensor may get a type: its rows divide into blocks, and there is importance if it is needed."""
        return not self.planned[name].dims[0] % qtype.block_size and (
            not self._calibration.needs(name, qtype) or self.entry(name) is not None
        )

    def retyped(self, chosen: Mapping[str, tuple[str, str]]) -> Plan:
        """Return the plan with other types for some tensors: name -> (type, reason).

        What depends on the types is worked out again: sizes, importance entries, fitted parameters, problems, and the
        file type, which is that of the type of most weights. Raises KeyError for a tensor that the plan does not have,
        UnknownTypeError and PlanError.
        """
        planned, header, types = self.planned, self.header, self._types
        tensors = {tensor.name: tensor for tensor in planned.tensors}
        for name, (type_name, reason) in chosen.items():
            old = tensors[name]
            tensors[name] = decided(name, old.source, old.dims, types[type_name], reason, self._calibration)
        made = list(tensors.values())
        file_type = _mostly(made, types)
        edits = labelled(planned.metadata, file_type)
        kept = with_parameters(made, header.tensors, header.metadata, edits, types, file_type)
        decodable = {qtype.type_id for qtype in types.values()}
        checks = Checks(header, file_type, planned.options, decodable, self._calibration)
        return replace(
            planned, file_type=file_type, tensors=kept.tensors, metadata=edits, parameters=kept.parameters,
            problems=checks.problems(made),
        )  # fmt: skip


def _mostly(tensors: Sequence[TensorPlan], types: "Mapping[str, QuantType]") -> FileType:
    """The file type that says what a file mostly holds: that of the type of most weights, such as Q4_K_M of Q4_K.

    llama.cpp calls a file after its most frequent type, in the same way, if it does not say what it is.
    """
    weights: dict[str, int] = {}
    for tensor in tensors:
        weights[tensor.to_type] = weights.get(tensor.to_type, 0) + tensor.n_elements
    return file_types.find(max(weights, key=weights.__getitem__), types)
