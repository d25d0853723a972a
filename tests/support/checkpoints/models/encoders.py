"""Models that make embeddings."""

from checkpoints.small import model

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def _pooling(mode):
    modes = {f"pooling_mode_{each}": each == mode for each in ("cls_token", "mean_tokens", "lasttoken")}
    return {"modules.json": _MODULES, "1_Pooling/config.json": {"word_embedding_dimension": 64, **modes}}


MODELS = {
    "bert": model(
        "bert",
        "BertModel",
        config={"layer_norm_eps": 1e-12, "type_vocab_size": 2, "pad_token_id": 0, "bos_token_id": ...},
        tokenizer="wordpiece",
        files=_pooling("cls_token"),
    ),
    "bert-masked": model(
        "bert",
        "BertForMaskedLM",
        config={"type_vocab_size": 2, "pad_token_id": 0, "bos_token_id": ..., "max_position_embeddings": ...},
        tokenizer="wordpiece",
        dtype="F16",
        files=_pooling("mean_tokens"),
        states="BertModel",
        tensors=lambda found: found | {"bert.embeddings.position_ids": ("I64", (1, 512))},
        unused=("cls.", "embeddings.position_ids", "bert.embeddings.position_ids"),
        absent=("pooler.",),
    ),
    "xlm-roberta": model(
        "xlm-roberta",
        "XLMRobertaModel",
        config={"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "max_position_embeddings": 130},
        tokenizer="unigram",
        dtype="F16",
        tensors=lambda found: found | {"embeddings.position_ids": ("I64", (1, 130))},
        unused=("embeddings.position_ids",),
        files=_pooling("cls_token"),
    ),
    "nomic-bert": model(
        "nomic_bert",
        "NomicBertModel",
        config={
            "n_embd": 64,
            "n_inner": 96,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 8192,
            "max_trained_positions": 2048,
            "activation_function": "swiglu",
            "causal": False,
            "qkv_proj_bias": False,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
            "prenorm": False,
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "type_vocab_size": 2,
            "pad_token_id": 0,
            "max_position_embeddings": ...,
        },
        tokenizer="wordpiece",
        files=_pooling("mean_tokens"),
    ),
}
