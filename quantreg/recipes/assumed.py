"""What a plan assumes about a model whose metadata does not tell it."""

from quantreg.recipes.model import ModelFacts
from quantreg.recipes.rules import FFN, role_of

__all__ = ["Watched"]

MADE_FROM = {
    "gqa": "head_count",
    "head_count_kv": "head_count",
    "trunk_layers": "block_count",
    "is_70b": "architecture",
}


class Watched:
    """The facts as rules see them: remembers which ones they looked at, as only those have mattered."""

    def __init__(self, facts: ModelFacts):
        self._facts, self._asked = facts, set()

    def __getattr__(self, name):
        self._asked.add(MADE_FROM.get(name, name))
        return getattr(self._facts, name)

    def assumptions(self, planned) -> tuple[str, ...]:
        """A sentence for each fact that rules needed and the metadata lacks; ``planned`` are the TensorPlans."""
        facts = self._facts
        prefix = facts.architecture or "ARCHITECTURE"
        reason = "as llama-quantize does for clip" if prefix == "clip" else "as the names of its tensors count them"
        sentences = {
            "architecture": "assumed that no rule for a certain architecture applies: no general.architecture",
            "block_count": f"assumed {facts.block_count} layers, {reason}: no {prefix}.block_count",
            "head_count": f"assumed that fewer than 4 query heads share a value head: no {prefix}.attention.head_count",
        }
        stack = next((tensor for tensor in planned if tensor.n_experts > 1 and role_of(tensor.name) in FFN), None)
        if stack is not None:
            sentences["expert_count"] = (
                f"assumed a model without experts, though {stack.name} holds {stack.n_experts} matrices: no "
                f"{prefix}.expert_count"
            )
        return tuple(text for fact, text in sentences.items() if fact in facts.missing & self._asked)
