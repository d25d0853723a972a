"""The result of planning: what happens to each tensor and to the metadata."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from quantreg.html import table
from quantreg.parameters import without_tokenizer
from quantreg.recipes.filetype import FileType
from quantreg.recipes.options import PlanOptions

if TYPE_CHECKING:  # gguf loads NumPy, which planning does not need
    from quantreg.gguf import TensorInfo

__all__ = ["MetadataEdit", "Plan", "StoredParameter", "TensorPlan", "edited"]


class MetadataEdit(NamedTuple):
    """One change to the metadata; the edits of a plan are applied in order.

    ``type`` is GGUF's name for a value type ("u32", "f32", "bool", "string"): the key is removed if it exists, then
    appended with ``value``. If ``type`` is None, the key is only removed.
    """

    key: str
    type: str | None = None
    value: object = None


def edited(metadata: Mapping[str, Any], edits: Iterable[MetadataEdit]) -> dict[str, Any]:
    """The metadata after some edits."""
    found = dict(metadata)
    for edit in edits:
        found.pop(edit.key, None)
        if edit.type is not None:
            found[edit.key] = edit.value
    return found


class StoredParameter(NamedTuple):
    """A parameter that a type fits to a tensor or a model, as the F32 tensor that the output keeps it in.

    ``name`` is that of the tensor in the file, ``parameter`` and ``type`` those that the plugin uses. ``shape`` is in
    NumPy order, ``bytes`` is the size without padding.
    """

    name: str
    parameter: str
    type: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What happens to one tensor.

    - ``name``, ``dims``: those in the output; ``dims`` is in ne order (row length first).
    - ``source``: the TensorInfo of the tensor it is made from. ``source.name`` differs after pruning.
    - ``from_type``, ``from_id``, ``to_type``, ``to_id``: the types before and after.
    - ``reason``: why it gets its type, in words.
    - ``bytes``: the size of the data in the output, without padding.
    - ``wanted``, ``wanted_bytes``: the type that a fallback replaced and the size it would have had, else None and 0.
    - ``needs_importance``: whether the tensor must not be encoded without importance.
    - ``importance``: the imatrix entry to use, or None.
    - ``parameters``: what the new type fits to the tensor, which the output keeps beside it.
    """

    name: str
    dims: tuple[int, ...]
    source: "TensorInfo"
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
    parameters: tuple[StoredParameter, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions in NumPy order (row length last)."""
        return self.dims[::-1]

    @property
    def n_elements(self) -> int:
        """The number of weights in the tensor."""
        total = 1
        for dim in self.dims:
            total *= dim
        return total

    @property
    def n_experts(self) -> int:
        """The number of matrices in a stack of experts (the third dimension), or 1. Each has its own importance row."""
        return self.dims[2] if len(self.dims) > 2 else 1

    @property
    def converted(self) -> bool:
        """Whether the tensor changes its type; otherwise its bytes are copied."""
        return self.from_id != self.to_id

    @property
    def fallback(self) -> bool:
        """Whether the tensor gets another type than the recipe wanted."""
        return self.wanted is not None


@dataclass(frozen=True)
class Plan(Mapping[str, TensorPlan]):
    """What happens to a model: its tensors in the order of the output, and the edits to its metadata.

    A plan maps tensor names to TensorPlans: ``plan["blk.0.attn_q.weight"].to_type``. A name that it does not have
    raises KeyError.

    ``warnings`` are sentences for the user. ``problems`` say why the plan cannot be carried out; `plan` raises them
    unless it is called with ``check=False``. ``imatrix`` is the path of the importance matrix, or None if there is
    none or it was not read from a file. ``options`` are those that the plan was made with. ``parameters`` are those
    that a type fits to the whole model. ``free`` names the tensors whose types the file type decided; those of the
    others follow from an option, or from a rule that keeps them. A plan that was read from a file has none.
    """

    file_type: FileType
    tensors: tuple[TensorPlan, ...]
    metadata: tuple[MetadataEdit, ...]
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    imatrix: str | None = None
    options: PlanOptions = field(default_factory=PlanOptions)
    parameters: tuple[StoredParameter, ...] = ()
    free: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> TensorPlan:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self.tensors)

    @cached_property
    def _by_name(self) -> dict[str, TensorPlan]:
        return {tensor.name: tensor for tensor in self.tensors}

    def __repr__(self) -> str:
        return f"<Plan {self.file_type.name}: {len(self)} tensors, {self.bits_per_weight:.4f} bits per weight>"

    def _repr_html_(self) -> str:
        return table(
            f"{self.file_type.name}: {len(self)} tensors, {self.bytes:,} bytes, "
            f"{self.bits_per_weight:.4f} bits per weight",
            ("tensor", "shape", "from", "to", "bytes", "reason"),
            ((t.name, t.shape, t.from_type, t.to_type, t.bytes, t.reason) for t in self.tensors),
        )

    @property
    def bytes(self) -> int:
        """The size of the tensor data in the output, with fitted parameters, without padding and header."""
        own = sum(parameter.bytes for parameter in self.parameters)
        return own + sum(t.bytes + sum(parameter.bytes for parameter in t.parameters) for t in self.tensors)

    @property
    def n_elements(self) -> int:
        """The number of weights in the output."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data per weight over all tensors; 0 if there are no weights."""
        return self.bytes * 8 / self.n_elements if self.n_elements else 0.0

    @property
    def fallbacks(self) -> tuple[TensorPlan, ...]:
        """The tensors that get another type than the recipe wanted."""
        return tuple(tensor for tensor in self.tensors if tensor.fallback)

    @property
    def fallback_cost(self) -> float:
        """Bits per weight that the fallbacks add over all tensors, relative to the nominal size of the wanted types."""
        extra = sum(tensor.bytes - tensor.wanted_bytes for tensor in self.fallbacks)
        return extra * 8 / self.n_elements if self.n_elements else 0.0

    def facts(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """What a codec may know of the output: its metadata, made of that of the source, without the tokenizer."""
        return edited(without_tokenizer(metadata), self.metadata)

    def to_dict(self) -> dict[str, Any]:
        """The plan as data for JSON.

        It has totals, each tensor's name, shape (NumPy order), types, reason and bytes, the warnings and the problems.
        """
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
            "warnings": list(self.warnings),
            "problems": list(self.problems),
        }
