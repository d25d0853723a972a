"""How models that make embeddings are published."""

from dataclasses import replace

from quantreg.checkpoints import Behind, Checkpoint, Config, Key, Row, common, named

_LAYER = "encoder.layer.{i}."
_NOMIC = "encoder.layers.{i}."

_KEYS = (
    *common.DECODER_KEYS,
    Key("attention.causal", lambda config: False, "bool"),
    common.POOLING,
)

_BERT = (
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


def _before(config: Config) -> int:
    """How many positions come before the first of a text: those up to the padding."""
    return int(config.get("pad_token_id", 1)) + 1


BERT = (
    *_BERT,
    replace(
        _BERT[0],
        classes=("XLMRobertaModel",),
        rows=(
            *(row for row in _BERT[0].rows if row.new != "position_embd.weight"),
            Row(
                "position_embd.weight",
                "embeddings.position_embeddings.weight",
                lambda config: Behind(_before(config)),
            ),
        ),
        keys=(
            *(
                Key(key.new, lambda config: config.number("max_position_embeddings") - _before(config))
                if key.new == "context_length"
                else key
                for key in _KEYS
            ),
        ),
        ignored=("embeddings.position_ids", "pooler.*"),
        starts=(),
        model_type="xlm-roberta",
        vocabulary="xlm-roberta",
        defaults=(("layer_norm_eps", 1e-12),),
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
