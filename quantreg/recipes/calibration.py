"""Which entry of the importance matrix each tensor uses, and what becomes of one that needs an entry and has none."""

import math

from quantreg.errors import ImportanceError
from quantreg.recipes.builtin import CANNOT_WITHOUT, NEEDS_IMATRIX
from quantreg.recipes.plans import TensorPlan

__all__ = ["EMBEDDINGS", "WITHOUT_IMPORTANCE", "Calibration", "decided"]

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
UNCALIBRATED = ("output.weight", *EMBEDDINGS)

# on_missing_importance="fallback": the smallest type that is no smaller, fits the same rows and does without.
WITHOUT_IMPORTANCE = {
    "IQ1_S": "Q2_K",
    "IQ1_M": "Q2_K",
    "IQ2_XXS": "Q2_K",
    "IQ2_XS": "Q2_K",
    "IQ2_S": "Q2_K",
    "Q2_K": "Q3_K",  # only Q2_K_S asks for importance there
    "IQ3_XXS": "IQ3_S",
}


class Calibration:
    """The entries that may be used, of an ImportanceMatrix or None; ``names`` are theirs."""

    def __init__(self, file_type, imatrix, options):
        self.file_type, self.imatrix, self.missing = file_type, imatrix, options.on_missing_importance
        names = () if imatrix is None else imatrix.entries
        if options.include_weights:
            names = (name for name in names if any(part in name for part in options.include_weights))
        self.names = frozenset(name for name in names if not any(part in name for part in options.exclude_weights))

    def needs(self, name: str, qtype) -> bool:
        """Whether a tensor is not to be encoded to this type without importance."""
        if self.missing == "plain":
            return qtype.name in CANNOT_WITHOUT
        if qtype.name in (*NEEDS_IMATRIX, *self.file_type.needs_imatrix) and name not in UNCALIBRATED:
            return True
        return qtype.name in CANNOT_WITHOUT or (qtype.requires_importance and qtype.name not in NEEDS_IMATRIX)

    def replacement(self, name: str, source, dims, qtype) -> str | None:
        """The type to use instead, where `needs` is not met and the options ask for a fallback."""
        if self.missing != "fallback" or not self.needs(name, qtype) or self.entry(name, source, dims) is not None:
            return None
        return WITHOUT_IMPORTANCE.get(qtype.name)

    def entry(self, name: str, source, dims) -> str | None:
        """The entry to use. Its length must be right, but for embeddings, where it is ignored if not."""
        if source.name not in self.names:
            return None
        found, expected = self.imatrix.n_values(source.name), dims[0] * (dims[2] if len(dims) > 2 else 1)
        if found == expected:
            return source.name
        if name in EMBEDDINGS:
            return None
        raise ImportanceError(
            f"imatrix {self.imatrix.path or ''}: entry {source.name} has {found} values, the tensor of dims {dims} "
            f"needs {expected}: the imatrix was made for another model"
        )


def decided(name, source, dims, qtype, reason, calibration, wanted=None) -> TensorPlan:
    """The TensorPlan for a decision: ``qtype`` (None: as it is), and ``wanted``, the QuantType it is a fallback for."""
    from_type = {"from_type": source.type_name, "from_id": source.type_id}
    rows = math.prod(dims[1:])
    ideal = {}
    if wanted is not None:  # its rows do not divide into blocks, so the size is a fraction
        size = rows * (wanted.row_header_size + dims[0] * wanted.bits_per_weight / 8)
        ideal = {"wanted": wanted.name, "wanted_bytes": size}
    if qtype is None or qtype.type_id == source.type_id:
        return TensorPlan(
            name, dims, source, **from_type, to_type=source.type_name, to_id=source.type_id, reason=reason,
            bytes=source.nbytes, **ideal,
        )  # fmt: skip
    return TensorPlan(
        name, dims, source, **from_type, to_type=qtype.name, to_id=qtype.type_id, reason=reason,
        bytes=rows * qtype.row_bytes(dims[0]), **ideal,
        needs_importance=calibration.needs(name, qtype), importance=calibration.entry(name, source, dims),
    )  # fmt: skip
