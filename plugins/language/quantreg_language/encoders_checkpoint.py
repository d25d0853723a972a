"""How models that make embeddings are published."""

from quantreg.checkpoints import Checkpoint, Key, common, named

_LAYER = "encoder.layer.{i}."
_NOMIC = "encoder.layers.{i}."

_KEYS = (
    *common.DECODER_KEYS,
    Key("attention.causal", lambda config: False, "bool"),
    common.POOLING,
)

BERT = (
    Checkpoint(
        classes=("BertModel", "BertForMaskedLM"),
        rows=(
            *named(
                {
                    "token_embd": "embeddings.word_embeddings",
                    "position_embd": "embeddings.position_embeddings",
                    "token_types": "embeddings.token_type_embeddings",
                },
                "",
                bias=False,
            ),
            *named({"token_embd_norm": "embeddings.LayerNorm"}, ""),
            *named(
                {
                    "attn_q": "attention.self.query",
                    "attn_k": "attention.self.key",
                    "attn_v": "attention.self.value",
                    "attn_output": "attention.output.dense",
                    "attn_output_norm": "attention.output.LayerNorm",
                    "ffn_up": "intermediate.dense",
                    "ffn_down": "output.dense",
                    "layer_output_norm": "output.LayerNorm",
                },
                _LAYER,
            ),
        ),
        keys=_KEYS,
        ignored=("embeddings.position_ids", "pooler.*", "cls.*"),
        starts=(("bert.", ""),),
        model_type="bert",
        restored=(
            ("type_vocab_size", lambda model: model.shape("token_types.weight")[0]),
            ("max_position_embeddings", lambda model: model.shape("position_embd.weight")[0]),
        ),
        vocabulary="bert",
        defaults=(("layer_norm_eps", 1e-12), ("max_position_embeddings", 512)),
    ),
)
NOMIC_BERT = (
    Checkpoint(
        classes=("NomicBertModel",),
        rows=(
            *named(
                {"token_embd": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings"},
                "",
                bias=False,
            ),
            *named({"token_embd_norm": "emb_ln"}, ""),
            *named({"attn_output_norm": "norm1", "layer_output_norm": "norm2"}, _NOMIC),
            *named(
                {
                    "attn_qkv": "attn.Wqkv",
                    "attn_output": "attn.out_proj",
                    "ffn_up": "mlp.fc11",
                    "ffn_gate": "mlp.fc12",
                    "ffn_down": "mlp.fc2",
                },
                _NOMIC,
                bias=False,
            ),
        ),
        keys=_KEYS,
        model_type="nomic_bert",
        restored=(("type_vocab_size", lambda model: model.shape("token_types.weight")[0]),),
        vocabulary="bert",
        defaults=(
            ("max_position_embeddings", 2048),
            ("rotary_emb_base", 1000.0),
            ("layer_norm_epsilon", 1e-12),
            ("head_dim", common.head_size),
        ),
    ),
)
