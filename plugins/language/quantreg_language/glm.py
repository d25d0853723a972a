"""GLM-4 and GLM-4.5."""

from quantreg import Architecture, Graph
from quantreg.inference.facts import Facts
from quantreg.inference.graph import Router
from quantreg.inference.rope import Pairs
from quantreg_language import glm_checkpoint as published
from quantreg_language.routers import score_by_key


def pairs(facts: Facts) -> Pairs:
    """Models that also see images rotate halves, in sections that text does not tell apart."""
    sections = facts.get("rope.dimension_sections") or (0, 0)
    return "halves" if sections[0] > 0 and sections[1] > 0 else "adjacent"


ARCHITECTURES = (
    Architecture(
        "glm4",
        "GLM-4",
        graph=Graph(after_attention="post_attention_norm", after_ffn="post_ffw_norm", fused_gate=True, rope=pairs),
        checkpoints=published.GLM_4,
    ),
    Architecture(
        "glm4moe",
        "GLM-4.5 and its successors with experts",
        graph=Graph(ffn_norm="post_attention_norm", router=Router(score_by_key("sigmoid"), norm=None), rope="halves"),
        checkpoints=published.GLM_4_MOE,
    ),
)
