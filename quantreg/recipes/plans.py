"""The outcome of planning: what becomes of each tensor and of the metadata."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from quantreg.html import table
from quantreg.recipes.filetype import FileType
from quantreg.recipes.options import PlanOptions

__all__ = ["MetadataEdit", "Plan", "TensorPlan"]


class MetadataEdit(NamedTuple):
    """One change of the metadata, applied in order.

    ``type`` is GGUF's name of a value type ("u32", "f32", "bool", "string"): remove the key if it is there, then append
    it with ``value``. None: only remove it.
    """

    key: str
    type: str | None = None
    value: object = None


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What becomes of one tensor.

    ``dims`` are the output's, in ne order without trailing ones (at least one dimension); ``shape`` is the reverse.
    ``source`` is the TensorInfo it is made from (``source.name`` differs after pruning). ``bytes`` is the size of the
    output's data without padding. ``wanted`` names the type before the fallback, else None. ``needs_importance`` says
    that the encoding is not to be done without importance; ``importance`` is the imatrix entry to use, None for none.
    """

    name: str
    dims: tuple[int, ...]
    source: object
    from_type: str
    from_id: int
    to_type: str
    to_id: int
    reason: str
    bytes: int
    wanted: str | None = None
    wanted_bytes: float = 0.0
    needs_importance: bool = False
    importance: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions in NumPy order: rows last."""
        return self.dims[::-1]

    @property
    def n_elements(self) -> int:
        """Weights in the tensor."""
        total = 1
        for dim in self.dims:
            total *= dim
        return total

    @property
    def n_experts(self) -> int:
        """Matrices in a stack of experts (the third dimension), 1 for a plain matrix: rows of its importance."""
        return self.dims[2] if len(self.dims) > 2 else 1

    @property
    def converted(self) -> bool:
        """Whether the data changes; else the bytes are copied."""
        return self.from_id != self.to_id

    @property
    def fallback(self) -> bool:
        """Whether the row length ruled out the wanted type."""
        return self.wanted is not None


@dataclass(frozen=True)
class Plan(Mapping[str, TensorPlan]):
    """What becomes of a model: its tensors in the order of the output, and the edits to its metadata.

    A mapping of tensor names to TensorPlans: ``plan["blk.0.attn_q.weight"].to_type``.

    ``warnings`` are sentences for the user. ``problems`` say why the plan cannot be carried out; `plan` raises them
    unless told otherwise. ``imatrix`` is the file of the importance matrix, None if there is none or it is no file.
    ``options`` are those it was made with.
    """

    file_type: FileType
    tensors: tuple[TensorPlan, ...]
    metadata: tuple[MetadataEdit, ...]
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    imatrix: str | None = None
    options: PlanOptions = field(default_factory=PlanOptions)

    def __getitem__(self, name: str) -> TensorPlan:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self.tensors)

    @cached_property
    def _by_name(self):
        return {tensor.name: tensor for tensor in self.tensors}

    def __repr__(self) -> str:
        return f"<Plan {self.file_type.name}: {len(self)} tensors, {self.bits_per_weight:.4f} bits per weight>"

    def _repr_html_(self) -> str:
        return table(
            f"{self.file_type.name}: {len(self)} tensors, {self.bytes:,} bytes, {self.bits_per_weight:.4f} bits/weight",
            ("tensor", "shape", "from", "to", "bytes", "reason"),
            ((t.name, t.shape, t.from_type, t.to_type, t.bytes, t.reason) for t in self.tensors),
        )

    @property
    def bytes(self) -> int:
        """Bytes of tensor data in the output, without padding and header."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def n_elements(self) -> int:
        """Weights in the output."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data a weight, over all tensors; 0 for a file without any."""
        return self.bytes * 8 / self.n_elements if self.n_elements else 0.0

    @property
    def fallbacks(self) -> tuple[TensorPlan, ...]:
        """The tensors whose row length ruled out the wanted type."""
        return tuple(tensor for tensor in self.tensors if tensor.fallback)

    @property
    def fallback_cost(self) -> float:
        """Bits a weight that the fallbacks add, over all tensors (the wanted type taken at its nominal bits)."""
        extra = sum(tensor.bytes - tensor.wanted_bytes for tensor in self.fallbacks)
        return extra * 8 / self.n_elements if self.n_elements else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data: name, shape (NumPy order), from, to, reason, bytes of each tensor, and sums."""
        return {
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "from": tensor.from_type,
                    "to": tensor.to_type,
                    "reason": tensor.reason,
                    "bytes": tensor.bytes,
                }
                for tensor in self.tensors
            ],
            "bytes": self.bytes,
            "bits_per_weight": self.bits_per_weight,
        }
