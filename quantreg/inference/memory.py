"""The memory that a model takes while it runs, beside its weights: the cache of its context, and working memory.

The figures are those of llama.cpp for one sequence, with keys and values in F16 and a batch of 512 tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantreg.errors import ModelError
from quantreg.inference.facts import Facts, read_facts
from quantreg.recipes.catalog import architectures

__all__ = ["RunMemory", "run_memory"]

BATCH = 512  # tokens that llama.cpp computes at once (its option -ub)
CELLS = 256  # the number of tokens in a cache is a multiple of this
USUAL_CONTEXT = 8192
MOST_CONTEXT = 1 << 30
F16, F32 = 2, 4

# Encoders and diffusion models, which see all tokens at once.
KEEP_NOTHING = (
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe", "modern-bert",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunMemory:
    """What a model needs beside its weights, in bytes.

    - ``context``: the number of tokens that this is for. ``trained``: the most that the model was trained on.
    - ``keys_values``: the key-value cache, in F16.
    - ``states``: what recurrent layers keep, in F32. It does not grow with the context.
    - ``working``: an estimate of the logits and activations of a batch of 512 tokens, in F32, and its attention mask.
    - ``layers``, ``windowed``: how many layers have a cache, and how many of these look back only a window of tokens.
    """

    context: int
    trained: int
    keys_values: int
    states: int
    working: int
    layers: int
    windowed: int

    @property
    def cache(self) -> int:
        """The bytes of the context: keys, values and states."""
        return self.keys_values + self.states

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.cache + self.working

    def to_dict(self) -> dict[str, int]:
        """The figures as JSON-ready data."""
        names = ("context", "trained", "keys_values", "states", "working", "layers", "windowed")
        return {name: getattr(self, name) for name in names}


def run_memory(metadata: Mapping[str, Any], n_vocab: int, context: int | None = None) -> RunMemory:
    """Compute the memory that a model takes beside its weights, from its metadata.

    ``context`` is the number of tokens, by default 8192, or what the model was trained on if that is less. Raises
    ModelError if the metadata do not describe a language model, or for a context that is not a number above 0.
    """
    facts = read_facts(metadata, n_vocab)
    if context is None:
        context = min(USUAL_CONTEXT, facts.context)
    if isinstance(context, bool) or not isinstance(context, int) or not 1 <= context <= MOST_CONTEXT:
        raise ModelError(f"the context is {context!r}: expected a number of tokens, 1 or more")
    architecture = architectures.get(facts.architecture)
    graph = None if architecture is None else architecture.graph
    keys_values = states = layers = windowed = 0
    cells = _padded(context)
    without = facts.n_layers if facts.architecture in KEEP_NOTHING else 0
    shared = facts.whole("attention.shared_kv_layers", 0)
    for layer in range(facts.n_layers - without):
        if _is_recurrent(facts, layer):
            states += _state(facts)
        if not _has_cache(facts, layer) or layer >= facts.n_layers - shared:
            continue
        window = 0 if graph is None else graph.window_of(facts, layer)
        n = min(cells, _padded(window + BATCH)) if window else cells
        layers += 1
        windowed += bool(window)
        keys_values += F16 * n * _values_per_token(facts, layer, bool(window))
    working = F32 * BATCH * (n_vocab + 2 * facts.width) + F16 * BATCH * cells
    return RunMemory(context, facts.context, keys_values, states, working, layers, windowed)


def _padded(tokens: int) -> int:
    return -(-tokens // CELLS) * CELLS


def _values_per_token(facts: Facts, layer: int, window: bool) -> int:
    """How many numbers a layer keeps of each token."""
    key, value = facts.key_length, facts.value_length
    if window:
        key = facts.whole("attention.key_length_swa", key)
        value = facts.whole("attention.value_length_swa", value)
    if facts.whole("attention.key_length_mla", 0):
        value = 0  # latent attention: the values are a part of the keys
    return facts.kv_heads[layer] * (key + value) + facts.whole("attention.indexer.key_length", 0)


# The architectures in which some layers are recurrent although all of them have the same number of heads.
EVERY_FOURTH = ("qwen3next", "qwen35", "qwen35moe")  # of their layers, one in four has attention
BOTH = ("falcon-h1",)  # each layer has attention and a state


def _has_cache(facts: Facts, layer: int) -> bool:
    if facts.architecture in BOTH:
        return True
    return facts.kv_heads[layer] > 0 and not _is_recurrent(facts, layer)


def _is_recurrent(facts: Facts, layer: int) -> bool:
    if facts.architecture in BOTH:
        return True
    if facts.architecture in EVERY_FOURTH:
        given = facts.get("attention.recurrent_layers")
        if given is not None:
            return bool(facts.per_layer("attention.recurrent_layers")[layer])
        return (layer + 1) % facts.whole("full_attention_interval", 4, least=1) != 0
    if facts.kv_heads[layer]:
        return False
    # Layers of Nemotron-H are attention, a state, or a feed-forward network.
    return _state(facts) > 0 and not (facts.architecture.startswith("nemotron_h") and facts.feed_forward[layer])


def _state(facts: Facts) -> int:
    """The bytes that a recurrent layer keeps: of the last tokens for its convolution, and its state."""
    kernel = facts.whole("ssm.conv_kernel", 0)
    heads = max(facts.heads, default=0)
    if head := facts.whole("wkv.head_size", 0):  # RWKV
        values = facts.width * (facts.whole("token_shift_count", 2) + head)
    elif length := facts.whole("shortconv.l_cache", 0):  # LFM2
        values = facts.width * (length - 1)
    elif head := facts.whole("kda.head_dim", 0):  # Kimi Linear
        values = heads * head * (3 * (kernel - 1 if kernel else 3) + head)
    else:  # Mamba and what followed it
        inner, size = facts.whole("ssm.inner_size", 0), facts.whole("ssm.state_size", 0)
        groups = facts.whole("ssm.group_count", 0)
        values = max(0, kernel - 1) * (inner + 2 * groups * size) + size * inner
    return F32 * values
