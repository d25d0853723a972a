"""Models of embeddings: attention to both sides, no output matrix. Their goldens are states."""

from small_models import decoder


def bert(name):
    small = _encoder(name, "bert", gated=False, qkv_bias=True, output_bias=True, ff_bias=True)
    small.matrix("position_embd", 64, small.width, gain=4)
    return small


def nomic_bert(name):
    """Rope instead of learned positions, a gate, and queries, keys and values in one matrix without biases."""
    return _encoder(name, "nomic-bert", fused_qkv=True).keys(**{"rope.freq_base": 1000.0})


def nomic_bert_experts(name):
    """Experts without gates in every other layer."""
    small = _encoder(name, "nomic-bert-moe", gated=False, qkv_bias=True, output_bias=True, ff_bias=True)
    small.keys(expert_count=8, expert_used_count=3, moe_every_n_layers=2)
    block = small.blocks[1]
    small.remove(f"{block}ffn_")
    small.matrix(f"{block}ffn_gate_inp", 8, small.width, gain=2)
    small.matrix(f"{block}ffn_up_exps", 8, small.ff, small.width)
    small.matrix(f"{block}ffn_down_exps", 8, small.width, small.ff)
    return small


def jina_bert(name):
    """Slopes instead of positions, and a gate."""
    small = _encoder(name, "jina-bert-v2", qkv_bias=True, output_bias=True)
    for block in small.blocks:
        small.bias(f"{block}ffn_down", small.width)
    return small


def jina_bert_code(name):
    """Norms of queries and keys, one more norm, and the gate in one matrix with up."""
    small = jina_bert(name)
    for block in small.blocks:
        for part in ("attn_q_norm", "attn_k_norm", "attn_norm_2"):
            small.norm(f"{block}{part}", small.width, bias=True)
        small.remove(f"{block}ffn_gate")
        small.matrix(f"{block}ffn_up", 2 * small.ff, small.width)
    return small


def jina_bert_plain(name):
    """No gate."""
    small = jina_bert(name)
    small.remove("ffn_gate")
    return small


def llama_embed(name):
    return decoder(name, "llama-embed", tied=True)


def _encoder(name, architecture, **parts):
    small = decoder(name, architecture, layers=3, heads_kv=4, rms=False, tied=True, **parts)
    small.remove("_norm.")
    small.keys(**{"attention.causal": False, "pooling_type": 1})
    small.metadata["tokenizer.ggml.token_type_count"] = 2
    small.matrix("token_types", 2, small.width, gain=4)
    small.norm("token_embd_norm", small.width, bias=True)
    for block in small.blocks:
        small.norm(f"{block}attn_output_norm", small.width, bias=True)
        small.norm(f"{block}layer_output_norm", small.width, bias=True)
    return small


MODELS = {
    "bert": bert,
    "nomic-bert": nomic_bert,
    "nomic-bert-moe": nomic_bert_experts,
    "jina-bert-v2": jina_bert,
    "jina-bert-v2-code": jina_bert_code,
    "jina-bert-v2-plain": jina_bert_plain,
    "llama-embed": llama_embed,
}
