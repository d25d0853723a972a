"""Rows and keys that most decoders share: those of Llama, from which published models seldom stray far."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantreg.checkpoints.checkpoint import How, Key, Row, named
from quantreg.checkpoints.config import Config
from quantreg.checkpoints.described import Described
from quantreg.checkpoints.transforms import Generated, Pairs
from quantreg.errors import CheckpointError

__all__ = [
    "ATTENTION",
    "ATTENTION_WEIGHTS",
    "BLOCK_COUNT",
    "DECODER_KEYS",
    "DEFAULTS",
    "DENSE",
    "DENSE_WEIGHTS",
    "FILE_TYPE",
    "FLOAT32",
    "FURTHER_ENDS",
    "IGNORED",
    "LAYER_NORMS",
    "OUTER",
    "PAIRED_ATTENTION",
    "PAIRED_WEIGHTS",
    "POOLING",
    "SHARED_EXPERTS",
    "SPARSE_OR_DENSE",
    "experts",
    "further_layers",
    "further_rows",
    "has",
    "head_size",
    "heads",
    "llama3_factors",
    "rotated_share",
    "tied",
    "trunk_layers",
    "value_of",
    "without",
]

# Names of GGUF tensors that are stored as F32 in every model, as llama.cpp's converter does. It does the same with
# vectors, with all tensors whose names do not end in ".weight", and with those whose names end in "_norm.weight".
FLOAT32: tuple[str, ...] = (
    "blk.{i}.ffn_gate_inp.weight",
    "blk.{i}.ffn_gate_inp_shexp.weight",
    "blk.{i}.ssm_conv1d.weight",
    "blk.{i}.shortconv.conv.weight",
    "position_embd.weight",
    "token_types.weight",
)
# Tensors that hold no weights: masks, and frequencies that follow from the configuration.
IGNORED: tuple[str, ...] = ("*.attention.masked_bias", "*.attention.bias", "*.rotary_emb.inv_freq")


def _query_pairs(config: Config) -> Pairs:
    """The order of the rows of queries in models whose GGUF rotates neighbours."""
    return Pairs(config.heads)


def _key_pairs(config: Config) -> Pairs:
    """The order of the rows of keys in models whose GGUF rotates neighbours."""
    return Pairs(config.kv_heads)


def tied(config: Config) -> bool:
    """Whether a model may lack an output matrix, because its embeddings are that matrix.

    Whether they are if config.json does not say it depends on the model; so only a clear "no" counts.
    """
    return config.get("tie_word_embeddings", True) is not False


def heads(config: Config) -> int:
    """The number of heads of attention."""
    return config.heads


def head_size(config: Config) -> int:
    """The length of a head."""
    return config.head_size


def llama3_factors(config: Config) -> Generated | None:
    """The factors by which Llama 3.1 divides its frequencies: one for each pair of a head; None for other models.

    Frequencies with a long wave are divided by "factor", those with a short one by 1, and those between the two
    bounds by a mixture of both (Llama 3.1's ``apply_scaling``).
    """
    rope = config.rope
    if str(rope.get("rope_type", "")).lower() != "llama3":
        return None
    import numpy as np  # only models of this kind need it here

    factor, low = float(rope.get("factor", 8.0)), float(rope.get("low_freq_factor", 1.0))
    high, trained = float(rope.get("high_freq_factor", 4.0)), float(rope.get("original_max_position_embeddings", 8192))
    size = config.head_size
    # float32 throughout, and a number divided by a tensor as its reciprocal times the number, so that the bits are
    # those of a converter that computes them with torch. Its powers are within one unit of these in the last place.
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.power(float(rope.get("rope_theta", 10000.0)), exponents.astype(np.float64)).astype(np.float32)
    waves = np.float32(1) / (np.float32(1) / powers) * np.float32(2 * np.pi)
    values = []
    for wave in waves:
        if wave < trained / high:
            values.append(1.0)
        elif wave > trained / low:
            values.append(factor)
        else:
            turns = np.float32(1) / wave * np.float32(trained)
            smooth = (turns - np.float32(low)) / np.float32(high - low)
            mixed = (np.float32(1) - smooth) / np.float32(factor) + smooth
            values.append(float(np.float32(1) / mixed))
    return Generated(tuple(values))


# Tensors outside of the layers.
OUTER: tuple[Row, ...] = (
    Row("token_embd.weight", "model.embed_tokens.weight"),
    Row("output_norm.weight", "model.norm.weight"),
    Row("output.weight", "lm_head.weight", optional=tied),
)
LAYER_NORMS: tuple[Row, ...] = named(
    {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}, bias=False
)
ATTENTION: tuple[Row, ...] = named(
    {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
    }
)
# The same for models whose GGUF rotates neighbours: llama and its close relatives.
PAIRED_ATTENTION: tuple[Row, ...] = (
    *named({"attn_q": "self_attn.q_proj"}, how=_query_pairs),
    *named({"attn_k": "self_attn.k_proj"}, how=_key_pairs),
    *named({"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj"}),
)
# A feed-forward network without experts.
DENSE: tuple[Row, ...] = named(
    {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}, unless="ffn_gate_inp"
)


# The same weights in models without biases.
ATTENTION_WEIGHTS: tuple[Row, ...] = tuple(row for row in ATTENTION if row.new.endswith(".weight"))
PAIRED_WEIGHTS: tuple[Row, ...] = tuple(row for row in PAIRED_ATTENTION if row.new.endswith(".weight"))
DENSE_WEIGHTS: tuple[Row, ...] = named(
    {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}, bias=False
)
# What most classes of transformers take if config.json does not say it.
DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("rope_theta", 10000.0),
    ("rms_norm_eps", 1e-6),
    ("num_key_value_heads", heads),
)


def experts(
    prefix: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj", *, unless: str = ""
) -> tuple[Row, ...]:
    """The rows of experts that are stored one by one.

    ``prefix`` contains "{i}" and "{e}", and what follows it is the name of a matrix. ``unless`` is that of `Row`.
    """
    parts = (("gate", gate), ("up", up), ("down", down))
    return tuple(Row(f"blk.{{i}}.ffn_{new}_exps.weight", f"{prefix}{old}.weight", unless=unless) for new, old in parts)


_MLP = "model.layers.{i}.mlp."
# A feed-forward network that is dense in some layers and has experts in others.
SPARSE_OR_DENSE: tuple[Row, ...] = (
    *named(
        {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
        bias=False,
        unless="ffn_gate_inp",
    ),
    Row("blk.{i}.ffn_gate_inp.weight", f"{_MLP}gate.weight", unless="blk.{i}.ffn_gate.weight"),
    *experts(f"{_MLP}experts.{{e}}.", unless="blk.{i}.ffn_gate.weight"),
)
# What the layers with experts apply to every token.
SHARED_EXPERTS: tuple[Row, ...] = named(
    {
        "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
        "ffn_up_shexp": "mlp.shared_experts.up_proj",
        "ffn_down_shexp": "mlp.shared_experts.down_proj",
    },
    bias=False,
    unless="ffn_gate",
)
# Embeddings and an output matrix of layers that predict further tokens, which are copies of the model's.
FURTHER_ENDS: tuple[Row, ...] = named(
    {"nextn.embed_tokens": "embed_tokens", "nextn.shared_head_head": "shared_head.head"},
    bias=False,
    optional=True,
    further=True,
)


def further_rows(how: How = None) -> tuple[Row, ...]:
    """The rows of what a layer that predicts further tokens has besides the others. ``how`` is done to its norms."""
    return (
        *named({"nextn.eh_proj": "eh_proj"}, bias=False, further=True),
        *named(
            {"nextn.enorm": "enorm", "nextn.hnorm": "hnorm", "nextn.shared_head_norm": "shared_head.norm"},
            how=how,
            bias=False,
            further=True,
        ),
    )


def further_layers(config: Config) -> int | None:
    """The number of layers that predict further tokens; None if there are none."""
    return config.further or None


def trunk_layers(model: Described) -> int:
    """For `Checkpoint.restored`: the number of layers without those that predict further tokens."""
    return model.number("block_count") - int(model.get("nextn_predict_layers") or 0)


def has(role: str) -> Callable[[Described], bool]:
    """For `Checkpoint.restored`: whether the layers of a model have a tensor, such as "attn_q.bias"."""
    return lambda model: model.has(f"blk.0.{role}")


def value_of(key: str, default: Any = None) -> Callable[[Described], Any]:
    """For `Checkpoint.restored`: the value of a key of the architecture, such as "expert_count"."""
    return lambda model: model.get(key, default)


def rotated_share(model: Described) -> float:
    """For `Checkpoint.restored`: the share of a head that is turned."""
    return model.number("rope.dimension_count") / model.head_size


def without(keys: tuple[Key, ...], *names: str) -> tuple[Key, ...]:
    """The keys but those of these names."""
    return tuple(key for key in keys if key.new not in names)


_SCALING = {"linear": "linear", "yarn": "yarn", "su": "longrope", "longrope": "longrope"}


def _scaling(config: Config) -> str | None:
    """The name in GGUF of the way in which a model was stretched to longer texts, or None."""
    rope = config.rope
    kind = _SCALING.get(str(rope.get("rope_type")))
    return None if kind in ("linear", "yarn") and rope.get("factor") is None else kind


def _scaling_factor(config: Config) -> Any:
    return config.rope.get("factor") if _scaling(config) in ("linear", "yarn") else None


def _yarn(*names: str) -> Any:
    """A function of Config that returns a value of YaRN: the first of these names."""

    def find(config: Config) -> Any:
        if _scaling(config) != "yarn":
            return None
        rope = config.rope
        return next((rope[name] for name in names if rope.get(name) is not None), None)

    return find


def _sections(config: Config) -> list[int] | None:
    stored = config.first_of(("rope_parameters", "rope_scaling"), {})
    found = stored.get("mrope_section") if isinstance(stored, dict) else None
    return None if found is None else [*found, 0, 0, 0, 0][:4]


def _gating(config: Config) -> int | None:
    names = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}
    found = config.first_of(
        ("score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func",
         "expert_selection_fn")
    )  # fmt: skip
    return None if found is None else names.get(found)


def _causal(config: Config) -> bool | None:
    return False if config.get("is_causal") is False else None


def _pooling(config: Config) -> int | None:
    """How the states of tokens become one embedding, as modules.json of sentence-transformers and its files say it."""
    folder = Path(config.path).parent
    if not (folder / "modules.json").is_file():
        return None
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    paths = (module["path"] for module in modules if module["type"].endswith("Pooling"))
    path = next(paths, None)
    if path is None:
        return None
    told = json.loads((folder / path / "config.json").read_text(encoding="utf-8"))
    kinds = {"mean": 1, "cls": 2, "lasttoken": 3}
    flags = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}
    found = next((kind for flag, kind in flags.items() if told.get(flag)), kinds.get(told.get("pooling_mode")))
    if found is None:
        raise CheckpointError(
            f"{folder / path / 'config.json'} names no kind of pooling that GGUF has: expected mean, cls or lasttoken"
        )
    return found


BLOCK_COUNT: Key = Key(
    "block_count", lambda config: config.n_layers + config.further, back=("num_hidden_layers", "n_layer")
)
POOLING: Key = Key("pooling_type", _pooling)
# The metadata of a decoder. The rules, the order and the types are those of llama.cpp's converter.
FILE_TYPE: Key = Key("=general.file_type", lambda config: 0)  # its place: the file type is known later
DECODER_KEYS: tuple[Key, ...] = (
    BLOCK_COUNT,
    Key("context_length", ("max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length",
                           "model_max_length")),
    Key("embedding_length", ("hidden_size", "n_embd", "dim")),
    Key("feed_forward_length", ("prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size",
                                "n_inner", "hidden_dim"), back=("intermediate_size", "n_inner")),
    Key("attention.head_count", ("num_attention_heads", "n_head", "n_heads")),
    Key("attention.head_count_kv", ("num_key_value_heads", "n_kv_heads")),
    Key("attention.causal", _causal, "bool"),
    Key("rope.scaling.type", _scaling, "string"),
    Key("rope.scaling.factor", _scaling_factor, "f32"),
    Key("rope.scaling.original_context_length", _yarn("original_max_position_embeddings")),
    Key("rope.scaling.yarn_ext_factor", _yarn("extrapolation_factor"), "f32"),
    Key("rope.scaling.yarn_attn_factor", _yarn("attention_factor", "attn_factor"), "f32"),
    Key("rope.scaling.yarn_beta_fast", _yarn("beta_fast"), "f32"),
    Key("rope.scaling.yarn_beta_slow", _yarn("beta_slow"), "f32"),
    Key("rope.dimension_sections", _sections, "array[i32]"),
    Key("rope.freq_base", lambda config: config.rope.get("rope_theta"), "f32"),
    Key("rope.freq_base_swa", lambda config: config.rope_of("sliding_attention").get("rope_theta"), "f32"),
    Key("attention.layer_norm_rms_epsilon", ("rms_norm_eps", "norm_eps"), "f32"),
    Key("attention.layer_norm_epsilon", ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"), "f32"),
    Key("expert_count", ("num_local_experts", "num_experts", "n_routed_experts")),
    Key("expert_used_count", ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")),
    Key("expert_group_count", "n_group"),
    Key("expert_group_used_count", "topk_group"),
    Key("expert_gating_func", _gating),
    Key("attention.key_length", "head_dim"),
    Key("attention.value_length", "head_dim"),
    FILE_TYPE,
)  # fmt: skip
