"""A plan with other types, or for another importance matrix."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from quantreg.recipes.calibration import Calibration, Importance, decided
from quantreg.recipes.checks import Checks
from quantreg.recipes.edits import imatrix_edits
from quantreg.recipes.fitted import with_parameters
from quantreg.recipes.model import ModelHeader
from quantreg.recipes.plans import Plan

if TYPE_CHECKING:
    from quantreg.qtype import QuantType

__all__ = ["retyped"]


def retyped(
    planned: Plan,
    header: ModelHeader,
    imatrix: Importance | None,
    chosen: Mapping[str, tuple[str, str]] | None = None,
    *,
    types: "Mapping[str, QuantType] | None" = None,
) -> Plan:
    """Return the plan with other types for some of its tensors, and with another importance matrix.

    ``header`` is the model that the plan was made for. ``chosen`` maps names in the output to (type, reason); the other
    tensors keep theirs. Raises UnknownTypeError, and ImportanceError if the matrix does not fit.
    """
    if types is None:
        from quantreg.registry import types as registered  # loads pluggy, which takes more than 10 ms

        types = registered
    chosen = chosen or {}
    calibration = Calibration(planned.file_type, imatrix, planned.options)
    tensors = []
    for tensor in planned.tensors:
        to, reason = chosen.get(tensor.name, (tensor.to_type, tensor.reason))
        qtype = None if to == tensor.from_type else types[to]
        wanted = types[tensor.wanted] if tensor.wanted and tensor.name not in chosen else None
        tensors.append(decided(tensor.name, tensor.source, tensor.dims, qtype, reason, calibration, wanted))
    edits = tuple(edit for edit in planned.metadata if not edit.key.startswith("quantize.imatrix."))
    edits += tuple(imatrix_edits(imatrix, len(calibration.names)))
    kept = with_parameters(tensors, header.tensors, header.metadata, edits, types, planned.file_type)
    decodable = {qtype.type_id for qtype in types.values()}
    checks = Checks(header, planned.file_type, planned.options, decodable, calibration)
    return Plan(
        planned.file_type,
        kept.tensors,
        edits,
        tuple(dict.fromkeys((*planned.warnings, *checks.warnings(tensors)))),
        checks.problems(tensors),
        imatrix=None if imatrix is None else imatrix.path,
        options=planned.options,
        parameters=kept.parameters,
    )
