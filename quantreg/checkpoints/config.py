"""The configuration of a model: config.json as a mapping that explains what it lacks."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quantreg.errors import CheckpointError

__all__ = ["Config"]

# Names under which a model of several kinds of input keeps the configuration of its language model.
_INNER = ("text_config", "llm_config", "lm_config", "language_config")
LARGEST = 2**31 - 1  # no number of a configuration that counts something is larger
_THETA = ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base")
_LOCAL_THETA = ("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq")
_LAYERS = ("n_layers", "num_hidden_layers", "n_layer", "num_layers")


class Config(Mapping[str, Any]):
    """config.json: a mapping, in which the configuration of the language model stands at the top.

    ``path`` is the file that errors name. A name whose value is null counts as missing: `get` returns the default.
    ``further`` is the number of layers after the last that predict further tokens, if the table takes them.
    """

    def __init__(self, data: Mapping[str, Any], path: str = "config.json") -> None:
        self.path = path
        self.further = 0
        inner: Mapping[str, Any] = next((data[name] for name in _INNER if isinstance(data.get(name), dict)), {})
        both = {**data, **inner}
        self._data = {name: value for name, value in both.items() if value is not None}
        self._null = both.keys() - self._data
        self.outer: Mapping[str, Any] = data

    def __getitem__(self, name: str) -> Any:
        try:
            return self._data[name]
        except KeyError:
            raise self.lacks(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, name: object) -> bool:
        return name in self._data

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or the default if it is missing or null."""
        return self._data.get(name, default)

    def first_of(self, names: tuple[str, ...], default: Any = None) -> Any:
        """The value of the first name that is there, or the default."""
        return next((self._data[name] for name in names if name in self._data), default)

    def filled(self, defaults: tuple[tuple[str, Any | Callable[["Config"], Any]], ...]) -> "Config":
        """The same with the defaults of a `Checkpoint` for what is missing.

        As in transformers, null is a value in place of a constant, but is replaced where the default is computed.
        """
        full = Config(self.outer, self.path)
        missing = [(name, value) for name, value in defaults if name not in self._data]
        for name, value in missing:
            if callable(value):
                full._data[name] = value(self)
            elif name not in self._null:
                full._data[name] = value
        return full

    def number(self, *names: str, default: int | None = None) -> int:
        """The positive whole number under the first of these names that is there.

        Raises CheckpointError if there is none and no default, or if it is not such a number.
        """
        value = self.first_of(names, default)
        if value is None:
            raise self.lacks(*names)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
            name = next((name for name in names if name in self._data), names[0])
            raise CheckpointError(
                f"{self.path}: {name} is {value!r:.60}, but expected a whole number from 1 to {LARGEST}: correct it, "
                "or download the file again"
            )
        return value

    def lacks(self, *names: str) -> CheckpointError:
        """The error that says that none of these names is there."""
        wanted = names[0] if len(names) == 1 else f"none of {', '.join(names)}"
        verb = "lacks " if len(names) == 1 else "has "
        return CheckpointError(f"{self.path} {verb}{wanted}, which a model of this kind needs: download it again")

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the model's classes, "architectures"."""
        found = self.outer.get("architectures")
        return tuple(name for name in found if isinstance(name, str)) if isinstance(found, list) else ()

    @property
    def n_layers(self) -> int:
        """The number of layers."""
        return self.number(*_LAYERS)

    @property
    def heads(self) -> int:
        """The number of heads of attention."""
        return self.number("num_attention_heads", "n_head", "n_heads")

    @property
    def kv_heads(self) -> int:
        """The number of heads of keys and values, which is that of all heads if nothing else is said."""
        return self.number("num_key_value_heads", "n_kv_heads", default=self.heads)

    @property
    def width(self) -> int:
        """The length of an embedding."""
        return self.number("hidden_size", "n_embd", "dim")

    @property
    def head_size(self) -> int:
        """The length of a head: "head_dim", or else the width divided by the number of heads."""
        return self.number("head_dim", default=self.width // self.heads or 1)

    @property
    def rope(self) -> dict[str, Any]:
        """What turns queries and keys, in the spelling of transformers 5: "rope_type", "rope_theta", "factor" ...

        It is made of "rope_parameters", or of "rope_scaling" and the names that stood beside it before. If layers
        differ, it is that of layers with full attention; see `rope_of`.
        """
        return self.rope_of("full_attention")

    def rope_of(self, kind: str) -> dict[str, Any]:
        """What turns queries and keys in layers of one kind: "full_attention" or "sliding_attention".

        Empty if config.json says nothing about layers of the kind "sliding_attention".
        """
        stored = self.first_of(("rope_parameters", "rope_scaling"), {})
        found = dict(stored) if isinstance(stored, dict) else {}
        if "full_attention" in found or "sliding_attention" in found:
            inner = found.get(kind)
            return dict(inner) if isinstance(inner, dict) else {}
        if kind == "sliding_attention":
            theta = self.first_of(_LOCAL_THETA)
            return {} if theta is None else {"rope_theta": theta}
        beside = {
            "rope_theta": self.first_of(_THETA),
            "rope_type": found.get("type"),
            "partial_rotary_factor": self.first_of(("partial_rotary_factor", "rope_pct", "rope_percent")),
            "original_max_position_embeddings": self.get("original_max_position_embeddings"),
        }
        return {**{name: value for name, value in beside.items() if value is not None}, **found}
