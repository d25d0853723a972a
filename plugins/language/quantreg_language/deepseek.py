"""DeepSeek, and models that share its attention."""

from quantreg import Architecture, Graph
from quantreg.inference.facts import Facts
from quantreg.inference.graph import Router, Score
from quantreg_language import deepseek_checkpoint as published
from quantreg_language.latent import latent_attention, latent_scale, magnitude
from quantreg_language.routers import score_by_key


def score(facts: Facts) -> Score:
    """Old files do not say how experts are scored: GLM 4.7 Flash, known by its size, differs from the others."""
    total = facts.whole("block_count") - facts.whole("nextn_predict_layers", 0)
    flash = total in (47, 48) and facts.n_vocab == 154880
    return score_by_key("sigmoid" if flash else "softmax")(facts)


_LATENT = Graph(
    router=Router(score, norm=None),
    attention=latent_attention,
    attention_scale=latent_scale,
    yarn_magnitude=magnitude,
)
_DEPTH = 1.4  # of MiniCPM 3: a constant of the published model, as are the other two numbers of its table

ARCHITECTURES = (
    Architecture("deepseek", "DeepSeek MoE, the first", graph=Graph(router=Router(norm=False))),
    Architecture(
        "deepseek2",
        "DeepSeek V2, V3 and R1, Kimi K2, GLM 4.7 Flash, Mistral Large 3",
        graph=_LATENT,
        checkpoints=published.DEEPSEEK_2,
    ),
    Architecture("mistral4", "Mistral 4", graph=_LATENT),
    Architecture(
        "minicpm3",
        "MiniCPM 3",
        graph=Graph(
            rope="halves",
            attention=latent_attention,
            embedding_scale=lambda facts: 12.0,
            residual_scale=lambda facts: _DEPTH / facts.n_layers**0.5,
            logit_scale=lambda facts: 256 / facts.width,
        ),
    ),
    Architecture("plm", "PLM", graph=Graph(attention=latent_attention, activation="relu_squared")),
)
