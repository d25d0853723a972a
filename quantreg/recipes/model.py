"""What the rules need to know about a model, read from its metadata and the user's overrides."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from quantreg.names import layer_of

if TYPE_CHECKING:  # gguf loads NumPy, which planning does not need
    from quantreg.gguf import TensorInfo

__all__ = ["ModelFacts", "ModelHeader", "model_facts"]


class ModelHeader(Protocol):
    """What planning needs of a model: its metadata, and its tensors in the order of the file."""

    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def tensors(self) -> Sequence["TensorInfo"]: ...


class ModelFacts(NamedTuple):
    """Facts about the whole model. Head counts are those of layer 0.

    ``trunk_layers`` does not count the layers that predict further tokens (nextn). ``missing`` names those of
    architecture, block_count, head_count and expert_count that the metadata lacks.
    """

    architecture: str
    block_count: int
    head_count: int
    head_count_kv: int
    expert_count: int
    trunk_layers: int
    missing: frozenset[str] = frozenset()

    @property
    def gqa(self) -> int:
        """The number of query heads per key-value head; 0 if layer 0 has no key-value heads."""
        return self.head_count // self.head_count_kv if self.head_count_kv else 0

    @property
    def is_70b(self) -> bool:
        """Whether ggml's reference takes the model for a "70B", whose V tensors are small compared with the others."""
        match self.architecture:
            case "llama":
                return self.trunk_layers == 80 and self.expert_count != 8 and self.head_count != self.head_count_kv
            case "qwen2" | "deci" | "olmo":
                return self.trunk_layers == 80
            case "jais2":
                return self.trunk_layers == 68
        return False


def model_facts(
    metadata: Mapping[str, Any], overrides: Iterable[tuple[str, Any]] = (), names: Iterable[str] = ()
) -> ModelFacts:
    """Read the facts from the metadata, the overrides and the ``names`` of the tensors.

    As in the reference, the first override of a key counts if it has the right kind of value. A model that lacks the
    keys has 0 heads and 0 experts, and its layers are counted from the tensor names.
    """
    given: dict[str, Any] = {}
    for key, value in overrides:
        given.setdefault(key, value.data if hasattr(value, "data") else value)  # a gguf.Value

    def number(key: str, default: int = 0, must_exist: bool = False) -> int:
        stored = metadata.get(key)
        if stored is not None and not isinstance(stored, int):
            first = _number(stored)
            if first is not None:  # one value per layer: overrides do not apply
                return first
            stored = default  # not a number: overrides apply
        override = given.get(key)
        if isinstance(override, int) and not (isinstance(override, bool) or (must_exist and stored is None)):
            return override & 0xFFFFFFFF
        return default if stored is None else int(stored)

    candidates = (given.get("general.architecture"), metadata.get("general.architecture"))
    arch = next((name for name in candidates if isinstance(name, str)), "")
    if arch == "clip":  # an image encoder: the reference reads none of these keys
        return ModelFacts(arch, 0, 0, 0, 0, 0, frozenset({"block_count", "head_count", "expert_count"}))
    layers = 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)
    blocks = number(f"{arch}.block_count", layers)
    trunk = blocks - number(f"{arch}.nextn_predict_layers")
    if arch == "nanbeige" and (loops := number(f"{arch}.num_loops", 1)) > 1:  # the same layers run several times
        blocks = trunk * loops
        trunk = blocks - number(f"{arch}.nextn_predict_layers")
    elif arch == "graniteswitch":  # one more layer, for the router
        blocks = trunk + 1
    heads = number(f"{arch}.attention.head_count", must_exist=True)
    heads_kv = number(f"{arch}.attention.head_count_kv", heads, must_exist=True)
    keys = {
        "block_count": f"{arch}.block_count",
        "head_count": f"{arch}.attention.head_count",
        "expert_count": f"{arch}.expert_count",
    }
    missing = {fact for fact, key in keys.items() if _number(metadata.get(key)) is None and key not in given}
    if not any(isinstance(name, str) for name in candidates):
        missing.add("architecture")
    return ModelFacts(arch, blocks, heads, heads_kv, number(f"{arch}.expert_count"), trunk, frozenset(missing))


def _number(stored: Any) -> int | None:
    """The value of a key, or the first of an array with one value per layer; None if it is not a number."""
    try:
        first = stored if isinstance(stored, int) else stored[0]
        return None if isinstance(first, str) else int(first)
    except (TypeError, ValueError, OverflowError, IndexError, KeyError):
        return None
