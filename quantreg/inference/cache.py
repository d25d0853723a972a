"""The key-value cache: what earlier tokens of one sequence left behind for the next ones."""

from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cache"]


class Cache:
    """Keys and values of one sequence, per layer. `quantreg.load(...).cache()` makes one.

    ``length`` is the number of tokens that it holds, ``limit`` the most that it may hold, or None. ``states`` holds
    what layers without keys keep from token to token, by layer.
    """

    length: int
    limit: int | None

    def __init__(self, n_layers: int, limit: int | None = None) -> None:
        self.length = 0
        self.limit = limit
        self.states: dict[int, Any] = {}
        self._kept: list[tuple[NDArray[np.float32], NDArray[np.float32]] | None] = [None] * n_layers

    def extend(
        self, layer: int, keys: "NDArray[np.float32]", values: "NDArray[np.float32]"
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Add the keys and values (tokens, heads, length) of new tokens to a layer; return those of all tokens."""
        new = self.length + len(keys)
        kept = self._kept[layer]
        if kept is None or len(kept[0]) < new:
            room = max(new, 2 * self.length, 64)
            room = room if self.limit is None else min(room, max(new, self.limit))
            grown = tuple(np.empty((room, *array.shape[1:]), np.float32) for array in (keys, values))
            if kept is not None:
                for array, old in zip(grown, kept, strict=True):
                    array[: self.length] = old[: self.length]
            kept = self._kept[layer] = (grown[0], grown[1])
        kept[0][self.length : new] = keys
        kept[1][self.length : new] = values
        return kept[0][:new], kept[1][:new]

    def check(self, n_tokens: int) -> None:
        """Raise ShapeError if these many tokens more do not fit."""
        if self.limit is not None and self.length + n_tokens > self.limit:
            raise ShapeError(
                f"the cache holds {self.length} tokens of at most {self.limit}: {n_tokens} more do not fit; make a "
                "larger one with model.cache(n_tokens)"
            )

    def truncate(self, length: int) -> None:
        """Forget all tokens from position ``length`` on. Raises ShapeError if a layer cannot go back."""
        if not 0 <= length <= self.length:
            raise ShapeError(f"the cache holds {self.length} tokens: it cannot be cut to {length}")
        if self.states and length not in (0, self.length):
            raise ShapeError("this model has recurrent layers, which cannot go back: cut the cache to 0 and start anew")
        if not length:
            self.states.clear()
        self.length = length
