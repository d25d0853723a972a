"""How Gemma 4 is published."""

from collections.abc import Callable
from typing import Any

from quantreg.checkpoints import Checkpoint, Config, Described, Generated, Key, Row, common, named

_LAYER = "model.layers.{i}."
_UNTURNED = 1e30  # pairs beyond the share that turns are divided by this


def _full_size(config: Config) -> int:
    """The length of a head in layers that see all tokens."""
    found = _of_full_layers(config, "head_dim")
    return config.number("global_head_dim") if found is None else int(found)


def _of_full_layers(config: Config, name: str) -> Any:
    """What "per_layer_config" says of a layer that sees all tokens, as transformers 5.24 saves it."""
    layers: dict[str, Any] = config.get("per_layer_config") or {}
    kinds = config["layer_types"]
    full = (entry for i, entry in layers.items() if int(i) < len(kinds) and kinds[int(i)] == "full_attention")
    return next((entry[name] for entry in full if name in entry), None)


def _windowed(config: Config) -> list[bool]:
    return [kind == "sliding_attention" for kind in config["layer_types"]]


def _kv_heads(config: Config) -> int | list[int]:
    full = config.get("num_global_key_value_heads", _of_full_layers(config, "num_key_value_heads"))
    if full is None:
        return config.kv_heads
    return [config.kv_heads if windowed else int(full) for windowed in _windowed(config)]


def _feed_forward(config: Config) -> int | list[int]:
    length, layers = config.number("intermediate_size"), range(config.n_layers)
    if not config.get("use_double_wide_mlp"):
        return length
    return [length * (2 if i in _sharing(config) else 1) for i in layers]


def _sharing(config: Config) -> range:
    """The layers that use the keys and values of one before them."""
    return range(config.n_layers - int(config.get("num_kv_shared_layers", 0)), config.n_layers)


def _without_values(config: Config) -> set[int]:
    """The layers that have no matrix of values: those that share them, and those whose values are the keys."""
    same = {i for i, windowed in enumerate(_windowed(config)) if not windowed and config.get("attention_k_eq_v")}
    return same | set(_sharing(config))


def _frequencies(config: Config) -> Generated:
    """Only a share of the pairs of a head turns, where all tokens are seen."""
    half = _full_size(config) // 2
    turned = int(_full_size(config) * config.rope["partial_rotary_factor"] / 2)
    return Generated((1.0,) * turned + (_UNTURNED,) * (half - turned))


def _lacks(name: str) -> Callable[[Config], bool]:
    return lambda config: not config.get(name)


_CHANGED = {
    "feed_forward_length": Key("feed_forward_length", _feed_forward),
    "attention.head_count_kv": Key("attention.head_count_kv", _kv_heads),
    "attention.key_length": Key("attention.key_length", _full_size, back="global_head_dim"),
    "attention.value_length": Key("attention.value_length", _full_size, back="global_head_dim"),
    "expert_count": Key("expert_count", "num_experts"),
    "expert_used_count": Key("expert_used_count", "top_k_experts"),
}


def _largest(key: str, choose: Any) -> Callable[[Described], Any]:
    def find(model: Described) -> Any:
        found = model.get(key)
        return choose(found) if isinstance(found, list) else found

    return find


def _global_kv(model: Described) -> int | None:
    heads, windowed = model.get("attention.head_count_kv"), model.get("attention.sliding_window_pattern")
    return heads[windowed.index(False)] if isinstance(heads, list) and False in windowed else None


def _local_kv(model: Described) -> int:
    heads, windowed = model.get("attention.head_count_kv"), model.get("attention.sliding_window_pattern")
    return int(heads[windowed.index(True)] if isinstance(heads, list) and True in windowed else heads)


def _same_values(model: Described) -> bool:
    """Whether values are keys in a layer that sees all tokens."""
    windowed = model.get("attention.sliding_window_pattern")
    own = model.number("block_count") - model.number("attention.shared_kv_layers")
    return any(not windowed[i] and not model.has(f"blk.{i}.attn_v.weight") for i in range(own))


def _rope_parameters(model: Described) -> dict[str, Any]:
    factors = model.values("rope_freqs.weight") or []
    turned = sum(factor == 1 for factor in factors) / len(factors)
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": model.get("rope.freq_base_swa")},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": turned,
            "rope_theta": model.get("rope.freq_base"),
        },
    }


def _layer_types(model: Described) -> list[str]:
    windowed = model.get("attention.sliding_window_pattern")
    return ["sliding_attention" if each else "full_attention" for each in windowed]


GEMMA_4 = (
    Checkpoint(
        classes=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
        rows=(
            *common.OUTER[:2],
            Row("rope_freqs.weight", (), _frequencies),
            *named(
                {
                    "per_layer_token_embd": "embed_tokens_per_layer",
                    "per_layer_model_proj": "per_layer_model_projection",
                    "per_layer_proj_norm": "per_layer_projection_norm",
                },
                "model.",
                bias=False,
                optional=_lacks("hidden_size_per_layer_input"),
            ),
            *named(
                {
                    "attn_norm": "input_layernorm",
                    "post_attention_norm": "post_attention_layernorm",
                    "ffn_norm": "pre_feedforward_layernorm",
                    "post_ffw_norm": "post_feedforward_layernorm",
                    "attn_q": "self_attn.q_proj",
                    "attn_q_norm": "self_attn.q_norm",
                    "attn_output": "self_attn.o_proj",
                },
                bias=False,
            ),
            *named({"attn_k": "self_attn.k_proj", "attn_k_norm": "self_attn.k_norm"}, bias=False, optional=_sharing),
            *named({"attn_v": "self_attn.v_proj"}, bias=False, optional=_without_values),
            *common.DENSE_WEIGHTS,
            Row("blk.{i}.layer_output_scale.weight", f"{_LAYER}layer_scalar"),
            *named(
                {
                    "inp_gate": "per_layer_input_gate",
                    "proj": "per_layer_projection",
                    "post_norm": "post_per_layer_input_norm",
                },
                bias=False,
                optional=_lacks("hidden_size_per_layer_input"),
            ),
            *named(
                {
                    "post_ffw_norm_1": "post_feedforward_layernorm_1",
                    "post_ffw_norm_2": "post_feedforward_layernorm_2",
                    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
                    "ffn_gate_inp": "router.proj",
                },
                bias=False,
                optional=_lacks("enable_moe_block"),
            ),
            *(
                Row(f"blk.{{i}}.{new}", f"{_LAYER}{old}", optional=_lacks("enable_moe_block"))
                for new, old in (
                    ("ffn_gate_inp.scale", "router.scale"),
                    ("ffn_down_exps.scale", "router.per_expert_scale"),
                    ("ffn_gate_up_exps.weight", "experts.gate_up_proj"),
                    ("ffn_down_exps.weight", "experts.down_proj"),
                )
            ),
        ),
        keys=(
            *(_CHANGED.get(key.new, key) for key in common.DECODER_KEYS),
            Key("final_logit_softcapping", lambda config: config.get("final_logit_softcapping") or None, "f32"),
            Key("attention.sliding_window", "sliding_window"),
            Key("attention.shared_kv_layers", "num_kv_shared_layers", default=0),
            Key("embedding_length_per_layer_input", "hidden_size_per_layer_input", default=0),
            Key("attention.sliding_window_pattern", _windowed, "array[bool]"),
            Key("attention.key_length_swa", "head_dim"),
            Key("attention.value_length_swa", "head_dim"),
            Key(
                "expert_feed_forward_length",
                ("expert_intermediate_size", "moe_intermediate_size"),
                back="moe_intermediate_size",
            ),
            Key("rope.dimension_count", _full_size),
            Key("rope.dimension_count_swa", "head_dim"),
        ),
        ignored=(
            "lm_head.weight",  # always tied
            "model.vision_tower.*",
            "model.embed_vision.*",
            "model.audio_tower.*",
            "model.embed_audio.*",
        ),
        starts=(("model.language_model.", "model."),),
        model_type="gemma4_text",
        vocabulary="gemma4",
        defaults=(("rms_norm_eps", 1e-6), ("head_dim", 256), ("sliding_window", 512)),
        restored=(
            ("head_dim", common.value_of("attention.key_length_swa")),
            ("global_head_dim", common.value_of("attention.key_length")),
            ("num_key_value_heads", _local_kv),
            ("num_global_key_value_heads", _global_kv),
            ("attention_k_eq_v", _same_values),
            ("intermediate_size", _largest("feed_forward_length", min)),
            ("use_double_wide_mlp", lambda model: isinstance(model.get("feed_forward_length"), list)),
            ("layer_types", _layer_types),
            ("rope_parameters", _rope_parameters),
            ("enable_moe_block", lambda model: model.has("blk.0.ffn_gate_inp.weight")),
            ("vocab_size_per_layer_input", lambda model: model.shape("token_embd.weight")[0]),
            ("final_logit_softcapping", common.value_of("final_logit_softcapping")),
            ("hidden_activation", "gelu_pytorch_tanh"),
        ),
    ),
)
