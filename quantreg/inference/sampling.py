"""From logits to tokens: the most probable one, or one drawn at random from the probable ones."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantreg.errors import ModelError, ShapeError
from quantreg.words import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.inference.cache import Cache
    from quantreg.inference.model import Model

__all__ = ["Sampler", "tokens"]

PROMPT = 512  # tokens of a prompt that go through the model at once: this bounds the memory of activations


@dataclass(frozen=True, slots=True)
class Sampler:
    """How the next token is chosen from logits.

    - ``temperature``: 0 takes the most probable token. Otherwise the logits are divided by it before the draw.
    - ``top_k``: only the k most probable tokens are drawn; 0 is no limit.
    - ``top_p``: only the most probable tokens that together have at least this probability are drawn (nucleus sampling,
      Holtzman et al. 2019, arXiv:1904.09751). 1 is no limit.

    As in llama.cpp, the limits come first, in this order, and the temperature after them.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ModelError(f"the temperature is {self.temperature}: expected 0 (no randomness) or more, such as 0.8")
        if self.top_k < 0:
            raise ModelError(f"top_k is {self.top_k}: expected a number of tokens, or 0 for no limit")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top_p is {self.top_p}: expected a probability above 0, or 1 for no limit")

    def choose(self, logits: "NDArray[np.float32]", random: np.random.Generator) -> int:
        """Return the next token for logits of shape (vocabulary,). Raises ModelError if one of them is NaN."""
        best = int(logits.argmax())  # argmax takes a NaN for the largest value
        if not math.isfinite(logits[best]):
            raise ModelError(
                f"the model predicts {logits[best]} for token {best}: a weight is damaged or too large; look for it "
                "with `quantreg validate`"
            )
        if not self.temperature:
            return best
        ids, kept = self._kept(logits.astype(np.float64))
        chances = np.exp((kept - kept[0]) / self.temperature).cumsum()
        place = int(chances.searchsorted(random.random() * chances[-1], side="right"))
        return int(ids[min(place, len(ids) - 1)])

    def _kept(self, logits: "NDArray[np.float64]") -> "tuple[NDArray[np.intp], NDArray[np.float64]]":
        """Return the tokens that may be drawn and their logits, the most probable first."""
        if 0 < self.top_k < len(logits):
            ids = np.argpartition(-logits, self.top_k - 1)[: self.top_k]
            ids = ids[np.argsort(-logits[ids], kind="stable")]
        else:
            ids = np.argsort(-logits, kind="stable")
        kept = logits[ids]
        if self.top_p < 1:
            total = np.exp(kept - kept[0]).cumsum()
            enough = int(total.searchsorted(self.top_p * total[-1])) + 1
            ids, kept = ids[:enough], kept[:enough]
        return ids, kept


def tokens(
    model: "Model",
    ids: "NDArray[np.intp]",
    n: int | None,
    sampler: Sampler,
    seed: int | None,
    end_ids: Collection[int],
    cache: "Cache",
) -> Iterator[int]:
    """Yield up to ``n`` tokens that follow ``ids``, (tokens,), until one of ``end_ids`` or until the cache is full.

    The arguments are checked at once, and the model runs when the first token is asked for.
    """
    if n is not None and n < 0:
        raise ModelError(f"{n} tokens were asked for: expected 0 or more, or None for as many as the model makes")
    if ids.ndim != 1:
        raise ShapeError(f"ids have shape {ids.shape}: a text grows from one sequence; pass ids of shape (tokens,)")
    room = math.inf if cache.limit is None else cache.limit - cache.length - len(ids)
    if room < 0:
        held = f", of which {cache.length} are taken" if cache.length else ""
        raise ShapeError(
            f"the prompt has {count(len(ids), 'token')}, but the context has room for {cache.limit}{held}: shorten the "
            "prompt, or pass a larger cache, model.cache(n_tokens)"
        )
    return _run(model, ids, room if n is None else min(n, room), sampler, np.random.default_rng(seed), end_ids, cache)


def _run(
    model: "Model",
    ids: "NDArray[np.intp]",
    most: float,
    sampler: Sampler,
    random: np.random.Generator,
    end_ids: Collection[int],
    cache: "Cache",
) -> Iterator[int]:
    new = ids
    made = 0
    while made < most:
        for start in range(0, len(new), PROMPT):
            states = model.states(new[start : start + PROMPT], cache)
        chosen = sampler.choose(model.output(states[-1:])[0], random)
        if chosen in end_ids:
            return
        yield chosen
        made += 1
        new = np.array([chosen])
