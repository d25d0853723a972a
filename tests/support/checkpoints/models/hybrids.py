"""Models of state spaces with attention between them: Granite 4 and Nemotron-H."""

from checkpoints.small import GROUPED, RMS, SIZES, model

_GRANITE = {**GROUPED, **RMS, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"]}
_GRANITE |= {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}
_GRANITE |= {"logits_scaling": 4.0, "position_embedding_type": "nope", "shared_intermediate_size": 48}
_GRANITE |= {"mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_d_head": 16, "mamba_d_conv": 4}
_GRANITE |= {"mamba_expand": 2, "mamba_chunk_size": 16, "mamba_conv_bias": True, "mamba_proj_bias": False}
_GRANITE |= {"attention_bias": False, "rope_theta": 10000, "hidden_act": "silu", "init_method": "mup"}
_NONE = {"num_local_experts": 0, "num_experts_per_tok": 0, "intermediate_size": 48}
_FEW = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32}
_ROPE = {"position_embedding_type": "rope", "layer_types": ["attention"] * 3}

_NEMOTRON = {**GROUPED, "head_dim": 16, "layer_norm_epsilon": 1e-5, "hybrid_override_pattern": "M-*-"}
_NEMOTRON |= {"num_hidden_layers": ..., "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 16}
_NEMOTRON |= {"conv_kernel": 4, "expand": 2, "use_conv_bias": True, "mamba_proj_bias": False, "chunk_size": 16}
_NEMOTRON |= {"mlp_hidden_act": "relu2", "use_bias": False, "mlp_bias": False, "attention_bias": False}
_NEMOTRON_FEW = {
    "layer_norm_epsilon": ...,
    "hybrid_override_pattern": "ME*E",
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
}
_NEMOTRON_FEW |= {"n_shared_experts": 1, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 48}
_NEMOTRON_FEW |= {"norm_topk_prob": True, "routed_scaling_factor": 2.5, "topk_group": 1, "intermediate_size": 32}
_PATTERN = {"num_hidden_layers": 4, "hybrid_override_pattern": "M-*-"}
_OF_EXPERTS = ("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group", "layers_block_type")

MODELS = {
    "granite4": model(
        "granitemoehybrid", "GraniteMoeHybridForCausalLM", config={**_GRANITE, **_NONE}, tokenizer="gpt-2", dtype="BF16"
    ),
    "granite4-experts": model(
        "granitemoehybrid", "GraniteMoeHybridForCausalLM", config={**_GRANITE, **_FEW}, tokenizer="gpt-2", dtype="BF16"
    ),
    "granite4-attention": model(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        config={**_GRANITE, **_NONE, **_ROPE},
        tokenizer="gpt-2",
        dtype="BF16",
    ),
    "granite4-attention-experts": model(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        config={**_GRANITE, **_FEW, **_ROPE},
        tokenizer="gpt-2",
        dtype="BF16",
    ),
    "nemotron-h": model(
        "nemotron_h",
        "NemotronHForCausalLM",
        like=SIZES,
        config=_NEMOTRON,
        without=_OF_EXPERTS,
        hparams=_PATTERN,
        dtype="BF16",
    ),
    "nemotron-h-experts": model(
        "nemotron_h", "NemotronHForCausalLM", like=SIZES, config={**_NEMOTRON, **_NEMOTRON_FEW}, dtype="BF16"
    ),
}
