"""Whether a model has all its layers, and each layer all its tensors.

A file that lost a part still has a sound header, so nothing else notices. Layers may differ on purpose, so a layer is
suspicious only if it holds a strict subset of what most layers of its kind hold, and nothing in exchange.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from quantreg.words import listed

__all__ = ["incomplete_layers"]

_LAYER = re.compile(r"((?:\w+\.)*blk)\.(\d{1,6})\.([A-Za-z]\w*(?:\.\w+)*\.(?:weight|bias))", re.ASCII)
# Parts of a layer that only some layers have, or that engines share between layers.
_OPTIONAL = (
    "indexer",
    "attn_compressor",
    "attn_rel_b.",
    "cross_attn_rel_b.",
    "rope_freqs.",
    "rope_factors",
    "nextn.",
    "attn_sinks.",
)
# ModernBERT's first layer has no norm, and RWKV-7's first layer has no value of an earlier layer to mix in.
_NOT_IN_FIRST = ("attn_norm.", "time_mix_v0.", "time_mix_v1.", "time_mix_v2.")
# The beginning of a layer's name -> the keys that count such layers, after the name of the architecture.
_COUNTED_BY = {
    "blk": ("block_count",),
    "enc.blk": ("block_count",),
    "dec.blk": ("decoder_block_count", "block_count"),
}
_USUAL = 4  # a layer is suspicious if this many times more layers have what it lacks
_MOST_LAYERS = 1 << 16  # block_count comes from the file: a larger one cannot be true

_Layers = dict[int, frozenset[str]]


def incomplete_layers(
    names: Iterable[str],
    metadata: Mapping[str, Any],
    *,
    pruned: Collection[int] = (),
    given: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Say which layers are missing and which lack tensors that their neighbours have: one sentence for each fault.

    ``names`` are those of all tensors, ``pruned`` the layers that the user leaves out, and ``given`` the user's
    overrides of the metadata. The layers of a hybrid model may differ, as may layers that predict further tokens, and
    layers for which an array of the metadata has other values.
    """
    facts = _Facts(metadata, given or {})
    names = list(names)
    groups: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        if found := _LAYER.fullmatch(name):
            groups[found[1]][int(found[2])].add(found[3])
    sentences: list[str] = []
    count = facts.count("blk")
    if count and not groups and "token_embd.weight" in names and not any(map(str.isdigit, "".join(names))):
        sentences.append(f"the model has no layer, although {facts.key('blk')} is {count}: {_WHOLE}")
    for group, roles in groups.items():
        layers = {number: frozenset(found) for number, found in sorted(roles.items())}
        sentences += _missing(group, layers, facts, pruned)
        sentences += _lacking(group, layers, facts, pruned)
    return tuple(sentences)


_WHOLE = "get the whole model (all of its files), or convert it again"


class _Facts:
    """What the metadata says about the layers."""

    def __init__(self, metadata: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.given = {key: getattr(value, "data", value) for key, value in given.items()}  # a gguf.Value
        self.architecture = self.value("general.architecture")
        self.n_extra = self._number(f"{self.architecture}.nextn_predict_layers") or 0
        self.arrays = [
            values
            for key in metadata
            if key.startswith(f"{self.architecture}.") and isinstance(values := metadata[key], list) and values
        ]

    def value(self, key: str) -> Any:
        return self.given.get(key, self.metadata.get(key))

    def _number(self, key: str) -> int | None:
        value = self.value(key)
        return int(value) if isinstance(value, int) and 0 <= value <= _MOST_LAYERS else None

    def key(self, group: str) -> str:
        """The key that counts the layers of a group, or an empty text."""
        if self.architecture == "clip":  # it counts the layers of each encoder elsewhere, in more than one way
            return ""
        keys = (f"{self.architecture}.{name}" for name in _COUNTED_BY.get(group, ()))
        return next((key for key in keys if self._number(key) is not None), "")

    def count(self, group: str) -> int | None:
        """The number of layers that the metadata states, without those that predict further tokens."""
        stated = self._number(self.key(group))
        return None if stated is None else max(0, stated - (self.n_extra if group == "blk" else 0))

    def kind(self, layer: int, n_layers: int) -> tuple[Any, ...]:
        """What the arrays with one value per layer say about a layer; layers with another kind may differ."""
        return tuple(
            values[layer] if len(set(values)) * _USUAL <= len(values) else bool(values[layer])
            for values in self.arrays
            if len(values) >= n_layers > layer
        )

    def is_empty(self, layer: int) -> bool:
        """Whether the layer has neither attention nor FFN, as some layers of a pruned architecture (Deci)."""
        found = [self.value(f"{self.architecture}.{key}") for key in ("attention.head_count", "feed_forward_length")]
        return all(isinstance(values, list) and layer < len(values) and not values[layer] for values in found)


def _missing(group: str, layers: _Layers, facts: _Facts, pruned: Collection[int]) -> list[str]:
    """Layers without any tensor."""
    stated = facts.count(group)
    if stated is not None and min(layers) >= stated:  # a file with nothing but the layers that predict further tokens
        return []
    expected = max(layers) + 1 if stated is None else stated
    absent = [
        n for n in range(expected) if n not in layers and not facts.is_empty(n) and not (group == "blk" and n in pruned)
    ]
    if not absent:
        return []
    which = f"the model lacks {len(absent)} of its {expected} layers ({_ranges(group, absent)})"
    why = f", although {facts.key(group)} is {facts.value(facts.key(group))}" if stated is not None else ""
    return [f"{which}{why}: engines refuse to load it: {_WHOLE}"]


def _lacking(group: str, layers: _Layers, facts: _Facts, pruned: Collection[int]) -> list[str]:
    """Layers that hold a strict subset of what most layers of their kind hold."""
    stated = facts.count(group)
    n_layers = max(layers) + 1 if stated is None else stated
    first = min(layers)
    trunk = {
        number: frozenset(role for role in roles if not role.startswith(_OPTIONAL))
        for number, roles in layers.items()
        if number < n_layers
        and not (group == "blk" and number in pruned)
        and not any(role.startswith("nextn.") for role in roles)
    }
    kinds = {number: facts.kind(number, n_layers) for number in trunk}
    classes: Counter[tuple[tuple[Any, ...], frozenset[str]]] = Counter((kinds[n], roles) for n, roles in trunk.items())
    found: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, roles in trunk.items():
        mine = classes[kinds[number], roles]
        larger = [(n, full) for (kind, full), n in classes.items() if kind == kinds[number] and roles < full]
        if not larger:
            continue
        usual, full = max(larger, key=lambda pair: pair[0])
        rare = usual >= _USUAL * mine or (mine == 1 and (usual > 1 or len(trunk) == 2))
        absent = full - roles
        if number == first:
            absent = frozenset(role for role in absent if not role.startswith(_NOT_IN_FIRST))
        if rare and absent:
            found[tuple(sorted(absent))].append((number, usual))
    return [_sentence(group, absent, places) for absent, places in found.items()]


def _sentence(group: str, absent: tuple[str, ...], places: Sequence[tuple[int, int]]) -> str:
    numbers, usual = [number for number, _ in places], max(n for _, n in places)
    lacks = "lacks" if len(numbers) == 1 else "lack"
    others = f"{usual} other layer{'s have' if usual > 1 else ' has'}"
    return f"{_ranges(group, numbers)} {lacks} {listed(absent)}, which {others}: {_WHOLE}"


def _ranges(group: str, numbers: Sequence[int]) -> str:
    """Numbers as ranges: "blk.0, blk.4 to blk.7 and 3 more"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    told = [f"{group}.{run[0]}" + (f" to {group}.{run[-1]}" if len(run) > 1 else "") for run in runs[:3]]
    more = sum(map(len, runs[3:]))
    return ", ".join(told) + (f" and {more} more" if more else "")
