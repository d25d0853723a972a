"""Llama 4."""

from typing import TYPE_CHECKING

from quantreg import Architecture, Graph, ModelError
from quantreg.inference.attention import rotated
from quantreg.inference.facts import Facts
from quantreg.inference.graph import Router
from quantreg.inference.norms import normalise
from quantreg_language import llama4_checkpoint as published
from quantreg_language.temperature import temperatures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quantreg.inference.layer import Layer
    from quantreg.inference.passes import Pass

    Array = NDArray[np.float32]

CHUNK, STEP = 8192, 4  # tokens that see each other; of so many layers, the last sees all of them and rotates nothing


def prepare(layer: "Layer", q: "Array", k: "Array", run: "Pass") -> "tuple[Array, Array]":
    """Rotate queries and keys and then norm them, or scale the queries by their positions."""
    if (layer.index + 1) % STEP == 0:
        return q * temperatures(run, 0.1, CHUNK, 1.0), k
    q, k = rotated(layer, q, k, run)
    if layer.facts.n_experts == 128:  # Maverick norms neither
        return q, k
    q, k = (normalise(each, None, None, "rms", layer.facts.eps, run) for each in (q, k))
    return q, k


def chunks(facts: Facts, layer: int) -> int:
    """The length of the chunks of a layer, or 0 if it sees all tokens."""
    if facts.get("attention.sliding_window") == 0:
        raise ModelError(
            "llama4.attention.sliding_window is 0: quantreg computes only those models of this architecture that see "
            "chunks of tokens"
        )
    pattern = facts.get("attention.sliding_window_pattern", STEP)
    if isinstance(pattern, (int, float)):
        chunked = not pattern or (layer + 1) % int(pattern) != 0
    else:
        chunked = bool(facts.per_layer("attention.sliding_window_pattern")[layer])
    return CHUNK if chunked else 0


ARCHITECTURES = (
    Architecture(
        "llama4",
        "Llama 4",
        graph=Graph(
            router=Router("sigmoid", norm=False, before=True),
            windows=chunks,
            chunked=True,
            window_base=lambda facts, base: facts.number("rope.freq_base_swa", base),
            prepare=prepare,
        ),
        checkpoints=published.LLAMA_4,
    ),
)
