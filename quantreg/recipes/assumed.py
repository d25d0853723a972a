"""The assumptions of a plan about a model whose metadata is incomplete."""

from collections.abc import Iterable
from typing import Any

from quantreg.names import role_of
from quantreg.recipes.model import ModelFacts
from quantreg.recipes.plans import TensorPlan
from quantreg.recipes.rules import FFN

__all__ = ["Watched"]

# Facts that are derived from another one -> the fact that the metadata may lack.
_DERIVED_FROM = {
    "gqa": "head_count",
    "head_count_kv": "head_count",
    "trunk_layers": "block_count",
    "is_70b": "architecture",
}


class Watched:
    """The model's facts as the rules see them: records which facts were read, because only those affected the plan."""

    def __init__(self, facts: ModelFacts) -> None:
        self._facts = facts
        self._read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self._read.add(_DERIVED_FROM.get(name, name))
        return getattr(self._facts, name)

    def assumptions(self, planned: Iterable[TensorPlan]) -> tuple[str, ...]:
        """One sentence for each fact that the rules read and that the metadata lacks."""
        facts = self._facts
        prefix = facts.architecture or "ARCHITECTURE"
        layers = f"{facts.block_count} layer{'' if facts.block_count == 1 else 's'}"
        how = "as llama-quantize does for clip" if prefix == "clip" else "counted from the tensor names"
        sentences = {
            "architecture": "assumed that no architecture-specific rule applies, because general.architecture is "
            "missing",
            "block_count": f"assumed {layers}, {how}, because {prefix}.block_count is missing",
            "head_count": f"assumed fewer than 4 query heads per value head, because {prefix}.attention.head_count is "
            "missing",
        }
        stack = next((tensor for tensor in planned if tensor.n_experts > 1 and role_of(tensor.name) in FFN), None)
        if stack is not None:
            sentences["expert_count"] = (
                f"assumed a model without experts, because {prefix}.expert_count is missing, although {stack.name} "
                f"holds {stack.n_experts} matrices"
            )
        return tuple(text for fact, text in sentences.items() if fact in facts.missing & self._read)
