"""Which entry of the importance matrix each tensor uses, and what happens to a tensor that needs one and has none."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from quantreg.errors import ImportanceError
from quantreg.recipes.builtin import CANNOT_WITHOUT, NEEDS_IMATRIX
from quantreg.recipes.filetype import FileType
from quantreg.recipes.options import PlanOptions
from quantreg.recipes.order import trimmed
from quantreg.recipes.plans import TensorPlan

if TYPE_CHECKING:  # gguf loads NumPy, which planning does not need
    from quantreg.gguf import TensorInfo
    from quantreg.qtype import QuantType

__all__ = ["EMBEDDINGS", "UNCALIBRATED", "Calibration", "Importance", "decided"]

EMBEDDINGS: tuple[str, ...] = ("token_embd.weight", "per_layer_token_embd.weight")
UNCALIBRATED: tuple[str, ...] = ("output.weight", *EMBEDDINGS)  # calibration does not see their inputs

# For on_missing_importance="fallback": the smallest type that is at least as large, has the same block size and does
# not need importance.
_WITHOUT_IMPORTANCE = {
    "IQ1_S": "Q2_K",
    "IQ1_M": "Q2_K",
    "IQ2_XXS": "Q2_K",
    "IQ2_XS": "Q2_K",
    "IQ2_S": "Q2_K",
    "Q2_K": "Q3_K",  # only the file type Q2_K_S requires importance for Q2_K
    "IQ3_XXS": "IQ3_S",
}


class Importance(Protocol):
    """What planning needs to know of an importance matrix; `quantreg.ImportanceMatrix` provides it.

    ``path``, ``dataset`` and ``chunk_count`` are stored in the output's metadata. Planning reads no values.
    """

    @property
    def entries(self) -> Mapping[str, object]:
        """The entries by tensor name."""
        ...

    @property
    def path(self) -> str | None: ...
    @property
    def dataset(self) -> str | None: ...
    @property
    def chunk_count(self) -> int: ...

    def n_values(self, name: str) -> int:
        """The number of values in an entry."""
        ...


class Calibration:
    """The entries of an importance matrix (or None) that a plan may use; ``names`` holds their names."""

    def __init__(self, file_type: FileType, imatrix: Importance | None, options: PlanOptions) -> None:
        self.file_type = file_type
        self.imatrix = imatrix
        self.missing: str = options.on_missing_importance
        names: Iterable[str] = () if imatrix is None else imatrix.entries
        if options.include_weights:
            names = (name for name in names if any(part in name for part in options.include_weights))
        self.names: frozenset[str] = frozenset(
            name for name in names if not any(part in name for part in options.exclude_weights)
        )
        self.ignored: dict[str, str] = {}  # name of a tensor -> why its entry is not used

    def needs(self, name: str, qtype: "QuantType") -> bool:
        """Whether this tensor must not be encoded to this type without importance."""
        if self.missing == "plain":
            return qtype.name in CANNOT_WITHOUT
        if qtype.name in (*NEEDS_IMATRIX, *self.file_type.needs_imatrix) and name not in UNCALIBRATED:
            return True
        return qtype.name in CANNOT_WITHOUT or (qtype.requires_importance and qtype.name not in NEEDS_IMATRIX)

    def replacement(self, name: str, source: "TensorInfo", dims: tuple[int, ...], qtype: "QuantType") -> str | None:
        """The type to use instead, if importance is needed but missing and the options ask for a fallback."""
        if self.missing != "fallback" or not self.needs(name, qtype) or self.entry(name, source, dims) is not None:
            return None
        return _WITHOUT_IMPORTANCE.get(qtype.name)

    def entry(self, name: str, source: "TensorInfo", dims: tuple[int, ...]) -> str | None:
        """The name of the entry to use, or None.

        Raises ImportanceError if the entry has the wrong length and the options do not say what to do without it.
        Embeddings ignore such an entry.
        """
        if self.imatrix is None or source.name not in self.names:
            return None
        found, expected = self.imatrix.n_values(source.name), dims[0] * (dims[2] if len(dims) > 2 else 1)
        if found == expected:
            return source.name
        if name in EMBEDDINGS:
            return None
        where = f"{self.imatrix.path or 'imatrix'}: entry {source.name}"
        what = f"has {found} values, but the tensor with dims {dims} needs {expected}"
        if self.missing != "error":
            self.ignored[name] = f"{where} is not used: it {what}"
            return None
        raise ImportanceError(
            f"{where} {what}: use an imatrix that was made for this model. To do without the entry, use "
            f'on_missing_importance="fallback" (--on-missing-importance fallback) or exclude_weights '
            f"(--exclude-weights {source.name})"
        )


def decided(
    name: str,
    source: "TensorInfo",
    dims: tuple[int, ...],
    qtype: "QuantType | None",
    reason: str,
    calibration: Calibration,
    wanted: "QuantType | None" = None,
) -> TensorPlan:
    """Make the TensorPlan for a decision.

    ``qtype`` is the new type, or None to keep the source's. ``wanted`` is the type that ``qtype`` replaces as a
    fallback, or None.
    """
    cols, n_rows = dims[0] if dims else 1, math.prod(dims[1:])
    wanted_bytes = 0.0
    if wanted is not None:  # a row may not be a whole number of its blocks, so this size can be a fraction
        wanted_bytes = n_rows * (wanted.row_header_size + cols * wanted.bits_per_weight / 8)
    if qtype is not None and qtype.type_id == source.type_id:
        qtype = None
    return TensorPlan(
        name=name,
        dims=dims,
        source=source,
        from_type=source.type_name,
        from_id=source.type_id,
        to_type=source.type_name if qtype is None else qtype.name,
        to_id=source.type_id if qtype is None else qtype.type_id,
        reason=reason,
        bytes=source.nbytes if qtype is None else n_rows * qtype.row_bytes(cols),
        wanted=None if wanted is None else wanted.name,
        wanted_bytes=wanted_bytes,
        needs_importance=qtype is not None and calibration.needs(name, qtype),
        importance=None if qtype is None else calibration.entry(name, source, trimmed(dims)),
    )
