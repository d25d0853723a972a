"""gpt-oss."""

from typing import TYPE_CHECKING

import numpy as np

from quantreg import Architecture, Graph
from quantreg_language import openai_checkpoint as published
from quantreg_language.windows import windowed

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHA, LIMIT = np.float32(1.702), np.float32(7)  # constants of the published model


def clamped(gate: "NDArray[np.float32]", up: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """gate * sigmoid(ALPHA * gate) * (up + 1), with gate at most LIMIT and up within LIMIT of 0."""
    gate = np.minimum(gate, LIMIT)
    with np.errstate(over="ignore"):
        gate /= 1 + np.exp(-ALPHA * gate)
    return gate * (np.clip(up, -LIMIT, LIMIT) + 1)


ARCHITECTURES = (
    Architecture(
        "gpt-oss",
        "gpt-oss, by OpenAI",
        graph=Graph(
            ffn_norm="post_attention_norm",
            combine=clamped,
            rope="halves",
            windows=windowed(2),
            window_base=lambda facts, base: facts.number("rope.freq_base_swa", base),
        ),
        checkpoints=published.GPT_OSS,
    ),
)
