"""Llama and its relatives."""

from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph
from quantreg.errors import ModelError
from quantreg.inference.attention import norm_and_rotate
from quantreg.inference.facts import Facts
from quantreg.inference.rope import yarn_magnitude
from quantreg_language import llama_checkpoint as published
from quantreg_language.slopes import slopes
from quantreg_language.temperature import temperatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass


def _baichuan_rotates(facts: Facts, layer: int) -> bool:
    # The file does not say which of the two models it is.
    if facts.n_layers not in (32, 40):
        raise ModelError(
            f"a Baichuan model has 32 layers with rotary embeddings, or 40 with ALiBi: this one has {facts.n_layers}, "
            "so its file does not tell which of the two it uses"
        )
    return facts.n_layers == 32


def _baichuan_slopes(facts: Facts, heads: int) -> "NDArray[np.float32] | None":
    return None if _baichuan_rotates(facts, 0) else slopes(heads)


def _mistral3_magnitude(facts: Facts, scale: float) -> float:
    multiplier = facts.number("rope.scaling.yarn_log_multiplier", 0.0)
    return yarn_magnitude(scale) / yarn_magnitude(scale, multiplier) if multiplier else yarn_magnitude(scale)


def _mistral3_prepare(
    layer: "Layer", q: "NDArray[np.float32]", k: "NDArray[np.float32]", run: "Pass"
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Also make queries larger, step by step, beyond the context of training (see Llama 4)."""
    q, k = norm_and_rotate(layer, q, k, run)
    temperature = layer.facts.number("attention.temperature_scale", 0.0)
    if temperature:
        trained = layer.facts.number("rope.scaling.original_context_length", layer.facts.context)
        q = q * temperatures(run, temperature, trained)
    return q, k


ARCHITECTURES = (
    Architecture(
        "llama",
        "Llama, Mistral, Mixtral and models of the same shape",
        graph=Graph(),
        checkpoints=published.LLAMA,
    ),
    Architecture(
        "mistral3",
        "Mistral 3",
        graph=Graph(yarn_magnitude=_mistral3_magnitude, prepare=_mistral3_prepare),
        checkpoints=published.MISTRAL_3,
    ),
    Architecture(
        "smollm3",
        "SmolLM 3",
        graph=Graph(rotates=lambda facts, layer: (layer + 1) % 4 != 0),
        checkpoints=published.SMOLLM_3,
    ),
    Architecture("internlm2", "InternLM 2", graph=Graph()),
    Architecture("xverse", "XVERSE", graph=Graph()),
    Architecture("ernie4_5", "ERNIE 4.5 without experts", graph=Graph(), checkpoints=published.ERNIE_4_5),
    Architecture("arcee", "Arcee AFM", graph=Graph(activation="relu_squared"), checkpoints=published.ARCEE),
    Architecture("exaone", "EXAONE 3", graph=Graph(rope="halves")),
    Architecture(
        "seed_oss",
        "Seed-OSS",
        graph=Graph(rope="halves", ffn_norm="post_attention_norm"),
        checkpoints=published.SEED_OSS,
    ),
    Architecture("orion", "Orion", graph=Graph(rope="halves", norm="layer")),
    Architecture("baichuan", "Baichuan", graph=Graph(rotates=_baichuan_rotates, slopes=_baichuan_slopes)),
)
