"""Models of embeddings: attention to both sides, no output matrix. Their goldens are states."""

from small_models import decoder


def bert(name):
    small = _encoder(name, "bert", gated=False, qkv_bias=True, output_bias=True, ff_bias=True)
    small.matrix("position_embd", 64, small.width, gain=4)
    return small


def nomic_bert(name):
    """Rope instead of learned positions, a gate, and queries, keys and values in one matrix without biases."""
    return _encoder(name, "nomic-bert", fused_qkv=True).keys(**{"rope.freq_base": 1000.0})


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


MODELS = {"bert": bert, "nomic-bert": nomic_bert}
