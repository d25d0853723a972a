"""Qwen."""

import re

from checkpoints.small import EXPERTS, GROUPED, RMS, SIZES, YARN, model

_EYES = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 1, "patch_size": 4}
_EYES_25 = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
_IMAGES = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}


def _inside(found):
    """The names that transformers gave such models from 4.52 to 4.57."""
    starts = {"model.": "model.language_model.", "visual.": "model.visual."}
    return {re.sub(r"^(model|visual)\.", lambda start: starts[start[0]], name): entry for name, entry in found.items()}


_MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}

MODELS = {
    "qwen2": model(
        "qwen2",
        "Qwen2ForCausalLM",
        config={**GROUPED, "rope_theta": 1e6, "tie_word_embeddings": True},
        dtype="BF16",
    ),
    "qwen2-yarn": model(
        "qwen2",
        "Qwen2ForCausalLM",
        config={
            **GROUPED,
            **RMS,
            "sliding_window": 64,
            "use_sliding_window": False,
            "rope_scaling": {
                **YARN,
                "attention_factor": 1.138629436111989,
                "beta_fast": 24,
                "beta_slow": 2,
                "extrapolation_factor": 1.0,
            },
        },
    ),
    "qwen2moe": model(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        config={**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 48, "norm_topk_prob": False},
        dtype="BF16",
    ),
    "qwen3": model(
        "qwen3",
        "Qwen3ForCausalLM",
        config={**GROUPED, "head_dim": 32, "rope_theta": 1e6, "tie_word_embeddings": True},
        dtype="BF16",
    ),
    "qwen3-yarn": model(
        "qwen3",
        "Qwen3ForCausalLM",
        config={**GROUPED, **RMS, "rope_scaling": YARN, "attention_bias": True},
        dtype="F16",
    ),
    "qwen3moe": model(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        config={**EXPERTS, "head_dim": 32, "norm_topk_prob": True},
        dtype="BF16",
        shards=2,
    ),
    "qwen2vl": model(
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        config={**GROUPED, **_IMAGES, "rope_theta": 1e6, "rope_scaling": _MROPE, "vision_config": _EYES},
        dtype="BF16",
    ),
    "qwen2.5vl": model(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        config={**GROUPED, **_IMAGES, "rope_theta": 1e6, "rope_scaling": _MROPE, "vision_config": _EYES_25},
        dtype="BF16",
        tensors=_inside,
    ),
    "qwen3vl": model(
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        like={"vocab_size": ..., "tie_word_embeddings": False},
        config={
            "text_config": {
                **{key: value for key, value in SIZES.items() if "token_id" not in key},
                **GROUPED,
                "model_type": "qwen3_vl_text",
                "vocab_size": 96,
                "rope_theta": 5e6,
                "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
            },
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "num_heads": 2,
                "intermediate_size": 32,
                "out_hidden_size": 64,
                "deepstack_visual_indexes": [0],
                "num_position_embeddings": 16,
                "patch_size": 4,
            },
            **_IMAGES,
        },
        dtype="BF16",
    ),
}
