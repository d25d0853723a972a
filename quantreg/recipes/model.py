"""What the rules need to know about a model, read from its metadata and the user's overrides."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from quantreg.recipes.order import layer_of

__all__ = ["ModelFacts", "model_facts"]


class ModelFacts(NamedTuple):
    """Facts about the whole model. Head counts are those of layer 0.

    ``missing`` names those of architecture, block_count, head_count and expert_count that the metadata does not tell.
    """

    architecture: str
    block_count: int
    head_count: int
    head_count_kv: int
    expert_count: int
    trunk_layers: int  # without the layers that predict further tokens (nextn)
    missing: frozenset[str] = frozenset()

    @property
    def gqa(self) -> int:
        """Query heads that share one key-value head; 0 where layer 0 has none."""
        return self.head_count // self.head_count_kv if self.head_count_kv else 0

    @property
    def is_70b(self) -> bool:
        """Whether ggml's reference takes the model for a "70B", whose V tensors are small beside the rest."""
        match self.architecture:
            case "llama":
                return self.trunk_layers == 80 and self.expert_count != 8 and self.head_count != self.head_count_kv
            case "qwen2" | "deci" | "olmo":
                return self.trunk_layers == 80
            case "jais2":
                return self.trunk_layers == 68
        return False


def model_facts(
    metadata: Mapping, overrides: Iterable[tuple[str, object]] = (), names: Iterable[str] = ()
) -> ModelFacts:
    """Read the facts. As in the reference, the first override of a key counts, if its kind fits.

    A model without the keys has 0 heads and experts, and as many layers as the ``names`` of its tensors count.
    """
    given: dict[str, object] = {}
    for key, value in overrides:
        given.setdefault(key, value.data if hasattr(value, "data") else value)  # a gguf.Value

    def number(key, default=0, must_exist=False):
        stored = metadata.get(key)
        if stored is not None and not isinstance(stored, int):  # one value a layer: not overridden
            first = _number(stored)
            if first is not None:
                return first
            stored = default  # an override counts
        if type(given.get(key)) is int and not (must_exist and stored is None):
            return given[key] & 0xFFFFFFFF
        return default if stored is None else int(stored)

    told = (given.get("general.architecture"), metadata.get("general.architecture"))
    arch = next((name for name in told if isinstance(name, str)), "")
    if arch == "clip":  # an image encoder: the reference reads none of these keys
        return ModelFacts(arch, 0, 0, 0, 0, 0, frozenset({"block_count", "head_count", "expert_count"}))
    layers = 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)
    blocks = number(f"{arch}.block_count", layers)
    trunk = blocks - number(f"{arch}.nextn_predict_layers")
    if arch == "nanbeige" and (loops := number(f"{arch}.num_loops", 1)) > 1:  # the same layers run several times
        blocks = trunk * loops
        trunk = blocks - number(f"{arch}.nextn_predict_layers")
    elif arch == "graniteswitch":  # a layer more, for the router
        blocks = trunk + 1
    heads = number(f"{arch}.attention.head_count", must_exist=True)
    heads_kv = number(f"{arch}.attention.head_count_kv", heads, must_exist=True)
    keys = {
        "block_count": f"{arch}.block_count",
        "head_count": f"{arch}.attention.head_count",
        "expert_count": f"{arch}.expert_count",
    }
    missing = {fact for fact, key in keys.items() if _number(metadata.get(key)) is None and key not in given}
    missing |= set() if any(isinstance(name, str) for name in told) else {"architecture"}
    return ModelFacts(arch, blocks, heads, heads_kv, number(f"{arch}.expert_count"), trunk, frozenset(missing))


def _number(stored):
    """What the metadata say, of an array (a value a layer) the first; None for what is no number."""
    try:
        first = stored if isinstance(stored, int) else stored[0]
        return None if isinstance(first, str) else int(first)
    except (TypeError, ValueError, OverflowError, IndexError, KeyError):
        return None
