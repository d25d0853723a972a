"""The words a recipe is written in: roles of tensors, conditions on them, and rows that give them a type.

A rule is any callable that takes a `Candidate` and the `Choice` so far (None as long as no rule has spoken) and returns
a `Choice`, or None to leave it. `Row` is the rule that the built-in recipes are made of; a plugin may mix rows with
functions of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from quantreg.errors import PlanError
from quantreg.recipes.model import ModelFacts
from quantreg.recipes.order import layer_of

__all__ = [
    "ATTENTION_V",
    "FFN",
    "Candidate",
    "Choice",
    "Row",
    "condition",
    "role_of",
    "unless",
]

# First match wins; a pattern with "=" in front must be the whole name. Anything else is "other".
ROLES = (
    ("=output.weight", "output"),
    ("=token_embd.weight", "token_embd"),
    ("=per_layer_token_embd.weight", "token_embd"),
    ("attn_qkv.weight", "attn_qkv"),
    ("attn_kv_b.weight", "attn_kv_b"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)
ATTENTION_V = ("attn_v", "attn_qkv", "attn_kv_b")
FFN = ("ffn_up", "ffn_gate", "ffn_down")


def role_of(name: str) -> str:
    """What a tensor does in the model, read from its name: "attn_v", "ffn_down" ... or "other"."""
    for pattern, role in ROLES:
        if name == pattern[1:] if pattern[0] == "=" else pattern in name:
            return role
    return "other"


class Choice(NamedTuple):
    """A type and why it was chosen."""

    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tensor that awaits its type, and all that a rule may look at.

    ``dims`` is in ne order (row length first), without trailing ones. ``role`` is "output" for token embeddings that
    serve as the output too. ``model`` has what `ModelFacts` has. ``count`` says how many tensors of the same role
    (attn_v, attn_qkv and attn_kv_b are one) went through the rules before this one. ``planned`` maps the names of the
    tensors before this one to their types.
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

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions in NumPy order (row length last)."""
        return self.dims[::-1]

    @property
    def n_experts(self) -> int:
        """Matrices in the tensor: its third dimension, 1 for a plain matrix."""
        return self.dims[2] if len(self.dims) > 2 else 1

    @property
    def layer(self) -> int | None:
        """The N of a leading ``blk.N``, None outside the blocks."""
        return layer_of(self.name)

    @property
    def group_size(self) -> int:
        """How many tensors of the role to expect: the model's layers, or the V tensors there are."""
        return self.n_attention_v if self.role in ATTENTION_V else self.model.block_count

    @property
    def index(self) -> int:
        """The place among the tensors of the group: the running count, or for the FFN of a mixture of experts the
        layer.

        Raises PlanError for an FFN tensor of a mixture of experts that belongs to no layer of the model.
        """
        if self.role not in FFN or self.model.expert_count <= 1:
            return self.count
        if self.layer is None or not 0 <= self.layer < self.model.block_count:
            raise PlanError(
                f"{self.name}: cannot tell its layer: the model has {self.model.expert_count} experts and "
                f"{self.model.block_count} layers, so an FFN tensor must be named blk.N.* with N below "
                f"{self.model.block_count}. Use --pure, or give this tensor a type with --tensor-type"
            )
        return self.layer


def condition(text: str):
    """Give a function ``Candidate -> bool`` the words that stand for it in the reasons of a plan."""

    def mark(function):
        function.text = text
        return function

    return mark


def unless(positive):
    """The opposite of a condition."""

    @condition(f"not {positive.text}")
    def negative(candidate):
        return not positive(candidate)

    return negative


@dataclass(frozen=True, slots=True)
class Row:
    """Tensors in a role (``where``: one, several, or None for all) that meet all conditions (``when``) get ``type``.

    The first row that applies decides. A row with ``instead_of`` comes after: it only replaces one of these types.
    """

    where: str | tuple[str, ...] | None
    when: object  # a condition, a tuple of them, or None
    type: str
    instead_of: tuple[str, ...] = ()

    def applies(self, candidate: Candidate) -> bool:
        """Whether role and conditions fit."""
        if self.where is not None and candidate.role not in _tuple(self.where):
            return False
        return all(test(candidate) for test in _tuple(self.when))

    def __call__(self, candidate: Candidate, chosen: Choice | None) -> Choice | None:
        """The type for this tensor, or None to abstain."""
        if self.instead_of:
            asked = (chosen.type if chosen else candidate.default_type) in self.instead_of
        else:
            asked = chosen is None
        return Choice(self.type, self.reason(candidate)) if asked and self.applies(candidate) else None

    def reason(self, candidate: Candidate) -> str:
        """For instance "ffn_down, one of the first eighth: Q6_K"."""
        words = [candidate.role, *(getattr(test, "text", test.__name__) for test in _tuple(self.when))]
        if candidate.role == "output" and role_of(candidate.name) == "token_embd":
            words[0] = "token_embd, tied to the output"
        return f"{', '.join(words)}: {self.type}"


def _tuple(value):
    return () if value is None else value if isinstance(value, tuple) else (value,)
