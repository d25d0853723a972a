"""Which types a tensor may get when its type is searched for."""

from collections.abc import Sequence

from quantreg.errors import PlanError, UnknownTypeError
from quantreg.qtype import QuantType
from quantreg.recipes import OpenPlan
from quantreg.registry import types

__all__ = ["candidates_for"]

# Types of 2 to 8.5 bits, by the row lengths that they take. Where K- and i-quants fit, the older types are no better at
# their size.
_WIDE = (
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0",
)  # fmt: skip
_NARROW = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
_LEAST = 0.45  # times the average: types of fewer bits are not worth measuring


def candidates_for(
    draft: OpenPlan, average: float, names: Sequence[str] | None = None
) -> dict[str, tuple[QuantType, ...]]:
    """Return the types that each free tensor may get, the smallest first.

    ``average`` is about how many bits per weight there are to spend: without ``names``, types of less than half as many
    are left out. ``names`` are the only types to use, except that a tensor none of them fits keeps the type of the
    plan. Raises UnknownTypeError, and PlanError for types that cannot be searched for.
    """
    given = None if names is None else [_checked(name) for name in names]
    if given is not None and not given:
        raise PlanError("there are no types to choose from: name at least one, such as Q4_K")
    found = {}
    for name, tensor in draft.free.items():
        if given is not None:
            fitting = [qtype for qtype in given if draft.allows(name, qtype)]
        else:
            fitting = [types[key] for key in (_NARROW if tensor.dims[0] % 256 else _WIDE)]
            fitting = [qtype for qtype in fitting if draft.allows(name, qtype)]
            enough = [qtype for qtype in fitting if qtype.bits_per_weight >= _LEAST * average]
            fitting = enough or fitting[-1:]
        if not fitting:
            fitting = [types[tensor.to_id]]
        found[name] = tuple(sorted(dict.fromkeys(fitting), key=lambda qtype: (qtype.bits_per_weight, qtype.type_id)))
    return found


def _checked(name: str) -> QuantType:
    try:
        qtype = types[name]
    except UnknownTypeError:
        qtype = types[name.upper()]
    if qtype.parameters is not None and qtype.parameters.required:
        raise PlanError(
            f"{qtype.name} keeps parameters beside each tensor, whose size a search does not count: leave it out "
            "of the types, and name the tensors that get it with tensor_types (--tensor-type)"
        )
    if not qtype.codec.can_encode:
        raise PlanError(f"{qtype.name} can be decoded, but not encoded: leave it out of the types")
    return qtype
