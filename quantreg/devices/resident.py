"""What is on a device, in bytes: weights that stay there for the next product, as long as there is room."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import RLock
from typing import Any

__all__ = ["Resident"]


@dataclass(frozen=True, slots=True)
class _Weights:
    there: Any
    owner: "weakref.ref[Any]"
    also: Any
    layer: str
    nbytes: int


class Resident:
    """The memory of a device: weights, which can be sent again, and other arrays, which cannot.

    ``budget``: bytes that all of them take at most. Weights make room for others, and for newer weights. Of the
    weights, those go first that were used last, because a model goes through its layers again and again: what was just
    used is needed again last. Those of the layer that is being computed stay.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.sent: int = 0  # bytes of weights that were sent
        self._weights: OrderedDict[Hashable, _Weights] = OrderedDict()
        self._others: list[tuple[weakref.ref[Any], int]] = []
        self._lock = RLock()

    @property
    def used(self) -> int:
        """Bytes of all arrays that are there."""
        with self._lock:
            self._tidy()
            return self._bytes()

    def weights(self, key: Hashable, owner: Any, also: Any, layer: str, nbytes: int, send: Callable[[], Any]) -> Any:
        """The weights with this key, sent by ``send`` if they are not there.

        ``owner`` is the array that they were made of. Once it is gone, another may have its memory, and so its key.
        ``also`` is kept with them, because the key names it. ``layer`` says which weights are used together.
        """
        with self._lock:
            self._tidy()
            if key in self._weights:
                self._weights.move_to_end(key)
                return self._weights[key].there
            self._free(nbytes, layer)
            found = send()
            self.sent += nbytes
            if self._bytes() + nbytes <= self.budget:
                self._weights[key] = _Weights(found, weakref.ref(owner), also, layer, nbytes)
            return found

    def other(self, nbytes: int, make: Callable[[], Any]) -> Any:
        """Make an array that counts as long as it lives."""
        with self._lock:
            self.room(nbytes)
            found = make()
            self._others.append((weakref.ref(found), nbytes))
            return found

    def room(self, nbytes: int) -> None:
        """Let weights go until there is room for so many bytes, or no weights are left."""
        with self._lock:
            self._tidy()
            self._free(nbytes, None)

    def held(self) -> int:
        """Bytes of the arrays that are no weights."""
        with self._lock:
            self._tidy()
            return sum(nbytes for _, nbytes in self._others)

    def _bytes(self) -> int:
        return sum(each.nbytes for each in self._weights.values()) + sum(nbytes for _, nbytes in self._others)

    def _tidy(self) -> None:
        self._others = [each for each in self._others if each[0]() is not None]
        for key in [key for key, each in self._weights.items() if each.owner() is None]:
            del self._weights[key]

    def _free(self, nbytes: int, layer: str | None) -> None:
        """Let weights go, those used last first, but those of ``layer`` after all others."""
        newest = list(reversed(self._weights))
        order = [key for key in newest if self._weights[key].layer != layer]
        order += [key for key in newest if self._weights[key].layer == layer]
        for key in order:
            if self._bytes() + nbytes <= self.budget:
                return
            del self._weights[key]
