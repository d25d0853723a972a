"""Models most of whose layers keep a state and no keys: Qwen3-Next and Qwen 3.5."""

from checkpoints.small import EXPERTS, GROUPED, SIZES, model

_SIZES = {**SIZES, "num_hidden_layers": 4}
_NET = {
    "head_dim": 16,
    "partial_rotary_factor": 0.5,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "full_attention_interval": 4,
}
_MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 1e6}


def _with_another_layer(found):
    """The layer "mtp", which predicts the token after the next, as in the published models."""
    layers = {name: entry for name, entry in found.items() if "layers.3." in name}
    more = {f"mtp.layers.0.{name.partition('layers.3.')[2]}": entry for name, entry in layers.items()}
    norms = ("mtp.norm.weight", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight")
    return found | more | {"mtp.fc.weight": ("BF16", (64, 128)), **dict.fromkeys(norms, ("BF16", (64,)))}


_LEFT_OUT = ("head_dim", "partial_rotary_factor", "full_attention_interval")
_DEFAULTS = {name: value for name, value in _NET.items() if name not in _LEFT_OUT}
_DEFAULTS |= {"num_attention_heads": 1, "num_key_value_heads": 1}


def _fused(found):
    """Experts in two matrices, as the published models have them."""
    found = _with_another_layer(found)
    experts = {name: entry for name, entry in found.items() if ".experts." in name}
    for name in experts:
        del found[name]
    for start in {name.partition(".experts.")[0] for name in experts}:
        found[f"{start}.experts.gate_up_proj"] = ("BF16", (4, 64, 64))
        found[f"{start}.experts.down_proj"] = ("BF16", (4, 64, 32))
    return found


def sees(type_, class_, text, **rest):
    """A model that sees images, too."""
    eyes = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    eyes |= {"patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": [], "in_channels": 3}
    text = {name: value for name, value in {**_SIZES, **text}.items() if value is not ...}
    config = {"text_config": {**text, "vocab_size": 96, "model_type": f"{type_}_text"}, "vision_config": eyes}
    config |= {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
    return model(type_, class_, like={"vocab_size": ...}, config=config, norm=0, dtype="BF16", **rest)


_EXPERTS = {**EXPERTS, "shared_expert_intermediate_size": 48}
_TURNED = {"rope_parameters": {**_MROPE, "partial_rotary_factor": 0.5}, "partial_rotary_factor": ...}
_NEXT = {"norm": 0, "dtype": "BF16", "unused": ("mtp.",), "tensors": _with_another_layer, "like": _SIZES}

MODELS = {
    "qwen3next-defaults": model(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        config={**_DEFAULTS, **_EXPERTS, "linear_num_value_heads": 2, "tie_word_embeddings": True},
        **_NEXT,
    ),
    "qwen35-defaults": model(
        "qwen3_5_text",
        "Qwen3_5ForCausalLM",
        config={**_DEFAULTS, "linear_num_value_heads": 2, "mtp_num_hidden_layers": 1},
        **_NEXT,
    ),
    "qwen35moe-defaults": model(
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        config={**_DEFAULTS, **_EXPERTS, "mtp_num_hidden_layers": 1},
        **_NEXT,
    ),
    "qwen35-sees": sees(
        "qwen3_5",
        "Qwen3_5ForConditionalGeneration",
        {**GROUPED, **_NET, **_TURNED, "mtp_num_hidden_layers": 1},
        tensors=_with_another_layer,
        unused=("mtp.",),
    ),
    "qwen35moe-sees": sees(
        "qwen3_5_moe",
        "Qwen3_5MoeForConditionalGeneration",
        {**GROUPED, **_NET, **_TURNED, **_EXPERTS, "mtp_num_hidden_layers": 1},
        tensors=_fused,
        unused=("mtp.",),
    ),
    "qwen3next": model(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        like=_SIZES,
        config={**GROUPED, **EXPERTS, **_NET, "shared_expert_intermediate_size": 48, "rope_theta": 1e6},
        tensors=_with_another_layer,
        unused=("mtp.",),
        norm=0,
        dtype="BF16",
    ),
    "qwen35": model(
        "qwen3_5_text",
        "Qwen3_5ForCausalLM",
        like=_SIZES,
        config={**GROUPED, **_NET, "rope_parameters": {**_MROPE, "partial_rotary_factor": 0.5}}
        | {"partial_rotary_factor": ..., "mtp_num_hidden_layers": 1, "tie_word_embeddings": True},
        tensors=_with_another_layer,
        unused=("mtp.",),
        norm=0,
        dtype="BF16",
    ),
    "qwen35moe": model(
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        like=_SIZES,
        config={**GROUPED, **EXPERTS, **_NET, "shared_expert_intermediate_size": 48, "mtp_num_hidden_layers": 1}
        | {"rope_parameters": {**_MROPE, "partial_rotary_factor": 0.5}, "partial_rotary_factor": ...},
        tensors=_with_another_layer,
        unused=("mtp.",),
        norm=0,
        dtype="BF16",
    ),
}
