"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), and YaRN (Peng et al. 2023, arXiv:2309.00071)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pairs", "Rope", "rotate", "yarn_magnitude"]

Pairs = Literal["adjacent", "halves"]


@dataclass(frozen=True, slots=True)
class Rope:
    """How the heads of a layer are rotated.

    - ``pairs``: which two values of a head turn together: neighbours ("adjacent"), or the same place in either half
      of the rotated values ("halves", as in GPT-NeoX).
    - ``dims``: how many values of each head are rotated; the others stay.
    - ``base``, ``scale``: pair i at position p turns by scale * p * base^(-2 i / dims).
    - ``factors``: float32 (dims / 2,), by which the angles are divided, or None.
    - ``yarn``: pairs whose wavelength is short turn as if scale were 1 (see YaRN, section 3.2): the context of
      training, beta_fast and beta_slow; None means no YaRN.
    - ``magnitude``: what the rotated values are multiplied by.
    """

    pairs: Pairs
    dims: int
    base: float = 10000.0
    scale: float = 1.0
    factors: "NDArray[np.float32] | None" = None
    yarn: tuple[int, float, float] | None = None
    magnitude: float = 1.0

    def tables(self, positions: "NDArray[np.intp]") -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """The cosines and sines of these positions: two float32 arrays of shape (positions, dims / 2)."""
        half = self.dims // 2
        steps = self.base ** (-2.0 * np.arange(half) / self.dims)
        if self.factors is not None:
            steps = steps / self.factors[:half]
        turns = steps * self.scale
        if self.yarn is not None:
            context, fast, slow = self.yarn
            ramp = _ramp(self.dims, context, self.base, fast, slow, half)
            turns = turns * (1 - ramp) + steps * ramp
        angles = positions[:, None] * turns
        return (
            (np.cos(angles) * self.magnitude).astype(np.float32),
            (np.sin(angles) * self.magnitude).astype(np.float32),
        )


def rotate(
    x: "NDArray[np.float32]", rope: Rope, tables: "tuple[NDArray[np.float32], NDArray[np.float32]]"
) -> "NDArray[np.float32]":
    """Rotate heads of shape (..., tokens, heads, length) in place, by tables of (tokens, dims / 2); return them."""
    cos, sin = (table[:, None, :] for table in tables)
    half = rope.dims // 2
    if rope.pairs == "halves":
        a, b = x[..., :half], x[..., half : 2 * half]
    else:
        a, b = x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]
    turned = a * cos - b * sin
    b[...] = a * sin + b * cos
    a[...] = turned
    return x


def yarn_magnitude(scale: float, log_multiplier: float = 1.0) -> float:
    """How much larger YaRN makes rotated values for a context that is 1 / scale times as long."""
    return 1.0 if scale >= 1 else 1 + 0.1 * log_multiplier * math.log(1 / scale)


def _ramp(dims: int, context: int, base: float, fast: float, slow: float, half: int) -> "NDArray[np.float64]":
    """1 for pairs that turn more than ``fast`` times in the context of training, 0 below ``slow`` times."""

    def place(turns: float) -> float:
        return dims * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0.0, math.floor(place(fast))), min(dims - 1.0, math.ceil(place(slow)))
    return 1 - np.clip((np.arange(half) - low) / max(0.001, high - low), 0, 1)
