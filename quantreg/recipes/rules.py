"""The vocabulary of recipes: roles of tensors, conditions on tensors, and rows that give tensors a type.

A rule is any callable that takes a `Candidate` and the `Choice` of the rules before it (None if there is none yet) and
returns a new `Choice`, or None to leave the choice as it is. The built-in recipes consist of `Row` rules. A plugin may
mix rows with functions of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from quantreg.errors import PlanError, PluginError
from quantreg.names import ROLES, layer_of, role_of
from quantreg.recipes.model import ModelFacts

__all__ = [
    "ATTENTION_V",
    "FFN",
    "Candidate",
    "Choice",
    "Condition",
    "Row",
    "Rule",
    "condition",
    "unless",
]

ATTENTION_V: tuple[str, ...] = ("attn_v", "attn_qkv", "attn_kv_b")
FFN: tuple[str, ...] = ("ffn_up", "ffn_gate", "ffn_down")


class Choice(NamedTuple):
    """A type and the reason why it was chosen."""

    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tensor whose type is to be decided, with everything that a rule may look at.

    - ``dims``: in ne order (row length first), without trailing ones.
    - ``role``: see `role_of`; "output" for token embeddings that serve as the output, too.
    - ``model``: the facts about the model, with the attributes of `ModelFacts`.
    - ``default_type``, ``default_block_size``: the file type's own type.
    - ``has_imatrix``: whether the plan may use any entry of an importance matrix.
    - ``count``: how many tensors with the same role the rules have seen before this one (attn_v, attn_qkv and
      attn_kv_b count as one role).
    - ``n_attention_v``: how many tensors with one of these three roles the model has.
    - ``planned``: maps the names of the tensors before this one to their types.
    - ``file_type``: the name of the file type.
    - ``source_type``: the type of the tensor in the source.
    - ``block``, ``n_blocks``: the number of the block that the tensor belongs to and how many blocks the sequence has,
      by the ``blocks`` of the model's `Architecture`; None and 0 if it says nothing about the tensor.
    """

    name: str
    dims: tuple[int, ...]
    role: str
    model: ModelFacts
    default_type: str
    default_block_size: int
    has_imatrix: bool
    count: int
    n_attention_v: int
    planned: Mapping[str, str]
    file_type: str = ""
    source_type: str = ""
    block: int | None = None
    n_blocks: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions in NumPy order (row length last)."""
        return self.dims[::-1]

    @property
    def n_experts(self) -> int:
        """The number of matrices in the tensor: its third dimension, or 1 for a plain matrix."""
        return self.dims[2] if len(self.dims) > 2 else 1

    @property
    def layer(self) -> int | None:
        """The N of a name that begins with ``blk.N``, else None."""
        return layer_of(self.name)

    @property
    def group_size(self) -> int:
        """How many tensors to expect in this role: the V tensors of the model, or one per layer for other roles."""
        return self.n_attention_v if self.role in ATTENTION_V else self.model.block_count

    @property
    def index(self) -> int:
        """The position in the group: the layer for an FFN tensor of a mixture of experts, else ``count``.

        Raises PlanError for an FFN tensor of a mixture of experts whose name does not give a layer of the model.
        """
        if self.role not in FFN or self.model.expert_count <= 1:
            return self.count
        if self.layer is None or not 0 <= self.layer < self.model.block_count:
            raise PlanError(
                f"{self.name}: cannot tell its layer: the model has {self.model.expert_count} experts and "
                f"{self.model.block_count} layers, so an FFN tensor must be named blk.N.* with N below "
                f"{self.model.block_count}. Use pure (--pure), or give this tensor a type with tensor_types "
                "(--tensor-type)"
            )
        return self.layer


Condition: TypeAlias = Callable[[Candidate], bool]
Rule: TypeAlias = Callable[[Candidate, Choice | None], Choice | None]

C = TypeVar("C", bound=Condition)


def condition(text: str) -> Callable[[C], C]:
    """Decorate a function ``Candidate -> bool`` with the words that describe it in the reasons of a plan."""

    def mark(function: C) -> C:
        function.__dict__["text"] = text  # type checkers do not let a callable have attributes
        return function

    return mark


@dataclass(frozen=True, slots=True)
class _Not:
    """The opposite of a condition. It is a class, and not a function within one, so that plans pickle."""

    positive: Condition

    @property
    def text(self) -> str:
        return f"not {_text(self.positive)}"

    def __call__(self, candidate: Candidate) -> bool:
        return not self.positive(candidate)


def unless(positive: Condition) -> Condition:
    """The opposite of a condition."""
    return _Not(positive)


@dataclass(frozen=True, slots=True)
class Row:
    """A rule that gives ``type`` to tensors with a role in ``where`` that meet all conditions in ``when``.

    ``where`` is one role, several, or None for all; ``when`` is one condition, several, or None for no condition. The
    first row that fits decides. A row with ``instead_of`` is different: it replaces a type chosen before it (or the
    file type's own) if that type is one of these. Raises PluginError for a role that no tensor has, and for a condition
    that is not a function.
    """

    where: str | tuple[str, ...] | None
    when: Condition | tuple[Condition, ...] | None
    type: str
    instead_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for role in _tuple(self.where):
            if role not in ROLES:
                from difflib import get_close_matches  # slow to load

                near = get_close_matches(str(role), ROLES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"the roles are {', '.join(ROLES)}"
                raise PluginError(f"a Row is for the role {role!r}, which no tensor has: {hint}")
        for test in _tuple(self.when):
            if not callable(test):
                raise PluginError(f"a Row has the condition {test!r}: pass a function that takes a Candidate")

    @property
    def __name__(self) -> str:
        """What an error message calls the row: its role, its conditions and its type."""
        where = ", ".join(_tuple(self.where)) or "all roles"
        return "Row(" + "; ".join([where, *map(_text, _tuple(self.when)), self.type]) + ")"

    def applies(self, candidate: Candidate) -> bool:
        """Whether the role and all conditions fit."""
        if self.where is not None and candidate.role not in _tuple(self.where):
            return False
        return all(test(candidate) for test in _tuple(self.when))

    def __call__(self, candidate: Candidate, chosen: Choice | None) -> Choice | None:
        """The choice for this tensor, or None if this row does not decide."""
        if self.instead_of:
            asked = (chosen.type if chosen else candidate.default_type) in self.instead_of
        else:
            asked = chosen is None
        return Choice(self.type, self.reason(candidate)) if asked and self.applies(candidate) else None

    def reason(self, candidate: Candidate) -> str:
        """The role, the conditions and the type: "ffn_down, in the first eighth of the layers: Q6_K"."""
        words = [candidate.role, *(_text(test) for test in _tuple(self.when))]
        if candidate.role == "output" and role_of(candidate.name) == "token_embd":
            words[0] = "token_embd, tied to the output"
        return f"{', '.join(words)}: {self.type}"


def _text(test: Condition) -> str:
    """The words for a condition: those of the decorator, or else the name of the function."""
    return str(getattr(test, "text", None) or getattr(test, "__name__", repr(test)))


T = TypeVar("T")


def _tuple(value: T | tuple[T, ...] | None) -> tuple[T, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)
