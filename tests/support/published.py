"""A folder with a small Llama, large enough for K-quants, and what is done to it."""

import json

from checkpoints import load, patterns, write_folder

__all__ = ["change_config", "llama", "tensors_of", "write_llama"]

WIDTH, FF, LAYERS, HEADS, KV_HEADS, WORDS = 256, 512, 2, 8, 4, 96


def tensors_of(dtype="BF16", layers=LAYERS):
    """{name: (dtype, shape)} of the checkpoint."""
    found = {
        "model.embed_tokens.weight": (WORDS, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (WORDS, WIDTH),
    }
    for i in range(layers):
        found |= {
            f"model.layers.{i}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (WIDTH,),
                "post_attention_layernorm": (WIDTH,),
                "self_attn.q_proj": (WIDTH, WIDTH),
                "self_attn.k_proj": (WIDTH // 2, WIDTH),
                "self_attn.v_proj": (WIDTH // 2, WIDTH),
                "self_attn.o_proj": (WIDTH, WIDTH),
                "mlp.gate_proj": (FF, WIDTH),
                "mlp.up_proj": (FF, WIDTH),
                "mlp.down_proj": (WIDTH, FF),
            }.items()
        }
    return {name: (dtype, shape) for name, shape in found.items()}


def llama(dtype="BF16", shards=2, tensors=None, **config):
    """What `write_folder` writes. ``tensors`` changes {name: (dtype, shape)}; a name that is None is left out."""
    golden, _ = load("llama")
    told = {
        "hidden_size": WIDTH,
        "intermediate_size": FF,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": WORDS,
    }
    here = tensors_of(dtype, config.get("num_hidden_layers", LAYERS)) | (tensors or {})
    here = {name: entry for name, entry in here.items() if entry is not None}
    return golden | {
        "config": {k: v for k, v in (golden["config"] | told | config).items() if v is not ...},
        "checkpoint": patterns(here),
        "shards": shards,
    }


def write_llama(folder, **changes):
    """Write the folder, and return its path."""
    write_folder("published", llama(**changes), folder)
    return folder


def change_config(folder, **values):
    """Change values of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
