"""What the modules of a model are called in a GGUF file, so that recipes and importance matrices apply to them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["gguf_names", "model_metadata"]

# The last parts of the names of modules -> the name in a file. Most decoders that transformers has use these.
_IN_A_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.out_proj": "attn_output",
    "self_attn.dense": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "attention.query_key_value": "attn_qkv",
    "self_attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "self_attention.dense": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
_OUTSIDE = {
    "embed_tokens": "token_embd",
    "embed_in": "token_embd",
    "word_embeddings": "token_embd",
    "wte": "token_embd",
    "wpe": "position_embd",
    "lm_head": "output",
    "embed_out": "output",
}


def gguf_names(modules: Iterable[str]) -> dict[str, str]:
    """The name of the weights of each module in a GGUF file; ``NAME.weight`` for a module that no file would have."""
    found: dict[str, str] = {}
    for module in modules:
        name = f"{_known(module) or module}.weight"
        found[module] = name if name not in found.values() else f"{module}.weight"
    return found


def _known(module: str) -> str | None:
    layer = re.search(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.(.+)$", module)
    if layer is None:
        return _OUTSIDE.get(module.rpartition(".")[2])
    stem = _IN_A_LAYER.get(layer[2])
    return None if stem is None else f"blk.{layer[1]}.{stem}"


def model_metadata(model: Any) -> Mapping[str, Any]:
    """What recipes ask about a model, from the ``config`` that models of transformers have; empty if there is none."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        return {}
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    arch = str(config.model_type).replace("_", "")
    keys = {
        "block_count": "num_hidden_layers",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "expert_count": "num_local_experts",
    }
    values = {key: getattr(config, of, None) for key, of in keys.items()}
    values["expert_count"] = values["expert_count"] or getattr(config, "num_experts", None) or 0
    known = {f"{arch}.{key}": int(value) for key, value in values.items() if isinstance(value, int)}
    return {"general.architecture": arch, **known}
