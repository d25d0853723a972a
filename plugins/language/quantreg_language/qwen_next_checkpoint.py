"""How Qwen3-Next and Qwen 3.5 are published: most layers have a gated delta net, and the others attention."""

from typing import Any

from quantreg.checkpoints import (
    Apart,
    Checkpoint,
    Config,
    Described,
    Key,
    MinusExp,
    Plus,
    Row,
    Share,
    Squeezed,
    Tiled,
    Transform,
    common,
    named,
)

_NET = "model.layers.{i}.linear_attn."
_MLP = "model.layers.{i}.mlp."
_KEYS_OF_NET: tuple[tuple[str, str], ...] = (
    ("ssm.conv_kernel", "linear_conv_kernel_dim"),
    ("ssm.state_size", "linear_key_head_dim"),
    ("ssm.group_count", "linear_num_key_heads"),
    ("ssm.time_step_rank", "linear_num_value_heads"),
)


def _tiled(of: str = "", axis: int = 0, skip: bool = False, before: tuple[Transform, ...] = ()) -> Any:
    """A function of Config: heads of values that share a head of keys are stored side by side, and GGUF has them apart.

    ``of`` names the length of a head in config.json. ``skip`` says that queries and keys come before the values.
    """

    def make(config: Config) -> tuple[Transform, ...]:
        groups, heads = config.number("linear_num_key_heads"), config.number("linear_num_value_heads")
        if groups == heads:
            return before
        keys = 2 * groups * config.number("linear_key_head_dim") if skip else 0
        return (*before, Tiled(groups, heads // groups, config.number(of) if of else 1, axis, keys))

    return make


def _mixed(*kinds: int) -> Any:
    """A function of Config: the rows of queries, keys, values and gates that stand together for a head of keys."""

    def make(config: Config) -> Apart:
        groups, keys = config.number("linear_num_key_heads"), config.number("linear_key_head_dim")
        values = config.number("linear_num_value_heads") // groups * config.number("linear_value_head_dim")
        return Apart(groups, (keys, keys, values, values), kinds)

    return make


def _layer_types(config: Config) -> list[str]:
    every = int(config.get("full_attention_interval", 4))
    return ["linear_attention" if (i + 1) % every else "full_attention" for i in range(config.n_layers)]


def _recurrent(config: Config) -> list[bool]:
    return [kind == "linear_attention" for kind in config["layer_types"]] + [False] * config.further


def _restored_types(model: Described) -> list[str]:
    found = model.get("attention.recurrent_layers")
    if found is None:
        every, n = model.number("full_attention_interval"), common.trunk_layers(model)
        found = [bool((i + 1) % every) for i in range(n)]
    return ["linear_attention" if each else "full_attention" for each in found[: common.trunk_layers(model)]]


def _rotated(config: Config) -> int:
    return int(config.head_size * config.rope.get("partial_rotary_factor", 0.25))


_SHARED = (
    *common.OUTER[:1],
    Row("output_norm.weight", "model.norm.weight", Plus()),
    *common.OUTER[2:],
    *named({"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}, how=Plus(), bias=False),
    *named(
        {
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
        },
        bias=False,
        unless="attn_qkv",
    ),
    *named(
        {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
        how=Plus(),
        bias=False,
        unless="attn_qkv",
    ),
    *named({"ssm_norm": "linear_attn.norm"}, bias=False, unless="attn_q"),
    *common.further_rows(Plus()),
)
_EXPERTS = (
    Row("blk.{i}.ffn_gate_inp.weight", f"{_MLP}gate.weight"),
    *common.experts(f"{_MLP}experts.{{e}}."),
    *named(
        {
            "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
            "ffn_up_shexp": "mlp.shared_expert.up_proj",
            "ffn_down_shexp": "mlp.shared_expert.down_proj",
            "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
        },
        bias=False,
    ),
)
_STACKED = (
    Row("blk.{i}.ffn_gate_exps.weight", f"{_MLP}experts.gate_up_proj", Share(0, 2, 1)),
    Row("blk.{i}.ffn_up_exps.weight", f"{_MLP}experts.gate_up_proj", Share(1, 2, 1)),
    Row("blk.{i}.ffn_down_exps.weight", f"{_MLP}experts.down_proj"),
)
_STARTS = (
    ("model.language_model.", "model."),
    ("mtp.layers.0.", "model.layers.{layers}."),
    ("mtp.fc.", "model.layers.{layers}.eh_proj."),
    ("mtp.pre_fc_norm_embedding.", "model.layers.{layers}.enorm."),
    ("mtp.pre_fc_norm_hidden.", "model.layers.{layers}.hnorm."),
    ("mtp.norm.", "model.layers.{layers}.shared_head.norm."),
)
_EXPERT_KEYS = (
    Key("expert_feed_forward_length", "moe_intermediate_size"),
    Key("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
)
_NET_KEYS = (
    Key("nextn_predict_layers", common.further_layers),
    *(Key(new, old, needed=True) for new, old in _KEYS_OF_NET),
    Key("ssm.inner_size", lambda config: config["linear_value_head_dim"] * config["linear_num_value_heads"]),
    Key("attention.recurrent_layers", _recurrent, "array[bool]"),
    Key("full_attention_interval", "full_attention_interval", default=4),
    Key("rope.dimension_count", _rotated),
)
_RESTORED: tuple[tuple[str, Any], ...] = (
    ("num_hidden_layers", common.trunk_layers),
    ("mtp_num_hidden_layers", common.value_of("nextn_predict_layers", 0)),
    ("linear_value_head_dim", lambda model: model.number("ssm.inner_size") // model.number("ssm.time_step_rank")),
    ("layer_types", _restored_types),
    ("attention_bias", False),
)
_EXPERTS_BACK: tuple[tuple[str, Any], ...] = (
    ("num_experts", common.value_of("expert_count")),
    ("norm_topk_prob", True),
    ("decoder_sparse_step", 1),
    ("mlp_only_layers", []),
)
_DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("rms_norm_eps", 1e-6),
    ("head_dim", 256),
    ("layer_types", _layer_types),
)

QWEN3_NEXT = (
    Checkpoint(
        classes=("Qwen3NextForCausalLM",),
        rows=(
            *_SHARED,
            Row(
                "blk.{i}.attn_qkv.weight", f"{_NET}in_proj_qkvz.weight", _mixed(0, 1, 2), unless="blk.{i}.attn_q.weight"
            ),
            Row("blk.{i}.attn_gate.weight", f"{_NET}in_proj_qkvz.weight", _mixed(3), unless="blk.{i}.attn_q.weight"),
            *named(
                {"ssm_ba": "linear_attn.in_proj_ba", "ssm_out": "linear_attn.out_proj"}, bias=False, unless="attn_q"
            ),
            Row("blk.{i}.ssm_conv1d.weight", f"{_NET}conv1d.weight", Squeezed(1), unless="blk.{i}.attn_q.weight"),
            Row("blk.{i}.ssm_a", f"{_NET}A_log", MinusExp(), unless="blk.{i}.attn_q.weight"),
            Row("blk.{i}.ssm_dt.bias", f"{_NET}dt_bias", unless="blk.{i}.attn_q.weight"),
            *_EXPERTS,
        ),
        keys=(*common.DECODER_KEYS, *_EXPERT_KEYS, *_NET_KEYS),
        starts=_STARTS[1:],
        further=True,
        model_type="qwen3_next",
        restored=(*_RESTORED, *_EXPERTS_BACK, ("partial_rotary_factor", common.rotated_share)),
        vocabulary="qwen2",
        defaults=(*_DEFAULTS, ("rope_theta", 10000.0)),
    ),
)

_NET_35 = (
    *_SHARED,
    Row(
        "blk.{i}.attn_qkv.weight",
        f"{_NET}in_proj_qkv.weight",
        _tiled("linear_value_head_dim", skip=True),
        unless="blk.{i}.attn_q.weight",
    ),
    *named({"attn_gate": "linear_attn.in_proj_z"}, how=_tiled("linear_value_head_dim"), bias=False, unless="attn_q"),
    *named(
        {"ssm_alpha": "linear_attn.in_proj_a", "ssm_beta": "linear_attn.in_proj_b"},
        how=_tiled(),
        bias=False,
        unless="attn_q",
    ),
    *named({"ssm_out": "linear_attn.out_proj"}, how=_tiled("linear_value_head_dim", 1), bias=False, unless="attn_q"),
    Row(
        "blk.{i}.ssm_conv1d.weight",
        f"{_NET}conv1d.weight",
        _tiled("linear_value_head_dim", skip=True, before=(Squeezed(1),)),
        unless="blk.{i}.attn_q.weight",
    ),
    Row("blk.{i}.ssm_a", f"{_NET}A_log", _tiled(before=(MinusExp(),)), unless="blk.{i}.attn_q.weight"),
    Row("blk.{i}.ssm_dt.bias", f"{_NET}dt_bias", _tiled(), unless="blk.{i}.attn_q.weight"),
)


def _sections(config: Config) -> list[int] | None:
    """What the class takes if config.json does not divide the pairs among time, row and column."""
    return None if "mrope_section" in config.rope else [11, 11, 10, 0]


def _rope_parameters(model: Described) -> dict[str, Any]:
    found = {
        "rope_type": "default",
        "rope_theta": model.get("rope.freq_base"),
        "partial_rotary_factor": common.rotated_share(model),
        "mrope_section": model.get("rope.dimension_sections")[:3],
        "mrope_interleaved": True,
    }
    return {name: value for name, value in found.items() if value is not None}


_KEYS_35 = Key("rope.dimension_sections", _sections, "array[i32]")
_BACK_35: tuple[tuple[str, Any], ...] = (("rope_parameters", _rope_parameters),)

QWEN35 = (
    Checkpoint(
        classes=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
        rows=(*_NET_35, *common.DENSE_WEIGHTS),
        keys=(*common.DECODER_KEYS, *_NET_KEYS, _KEYS_35),
        ignored=("model.visual.*",),
        starts=_STARTS,
        further=True,
        model_type="qwen3_5_text",
        restored=(*_RESTORED, *_BACK_35),
        vocabulary="qwen2",
        defaults=(*_DEFAULTS, ("rope_theta", 10000.0)),
    ),
)
QWEN35_MOE = (
    Checkpoint(
        classes=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
        rows=(*_NET_35, *_EXPERTS, *_STACKED),
        keys=(*common.DECODER_KEYS, *_EXPERT_KEYS, *_NET_KEYS, _KEYS_35),
        ignored=("model.visual.*",),
        starts=_STARTS,
        further=True,
        model_type="qwen3_5_moe_text",
        restored=(*_RESTORED, *_EXPERTS_BACK, *_BACK_35),
        vocabulary="qwen2",
        defaults=(*_DEFAULTS, ("rope_theta", 10000.0)),
    ),
)
