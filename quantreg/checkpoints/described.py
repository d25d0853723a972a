"""A GGUF model as the tables of checkpoints look at it on the way back to a folder."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import CheckpointError
from quantreg.gguf import TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Described", "plain"]


class Described:
    """A GGUF model: its metadata, the shapes of its tensors, and the values of small ones.

    ``architecture`` is its name, ``metadata`` all of its metadata, and ``infos`` its tensors by name. ``read(name)``
    returns the values of a tensor as float32.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        infos: Iterable[TensorInfo],
        read: "Callable[[str], NDArray[np.float32]]",
    ) -> None:
        self.metadata = metadata
        self.architecture: str = str(metadata.get("general.architecture", ""))
        self.infos: dict[str, TensorInfo] = {info.name: info for info in infos}
        self._read = read

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture, such as "attention.head_count", in plain values of Python.

        Numbers of 32 bits are the shortest decimals that give them: 1e-05 and not 9.999999747378752e-06.
        """
        found = self.metadata.get(f"{self.architecture}.{key}")
        return default if found is None else plain(found)

    def number(self, key: str) -> int:
        """The whole number under a key of the architecture. Raises CheckpointError if there is none."""
        found = self.get(key)
        if isinstance(found, bool) or not isinstance(found, int):
            raise CheckpointError(f"{self.architecture}.{key} is {found!r:.60}, but a folder needs a whole number")
        return found

    @property
    def head_size(self) -> int:
        """The length of a head of queries and keys."""
        found = self.get("attention.key_length")
        return int(found) if found else self.number("embedding_length") // self.number("attention.head_count")

    def has(self, name: str) -> bool:
        """Whether there is a tensor with this name."""
        return name in self.infos

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor in NumPy order. Raises CheckpointError if it is missing."""
        if name not in self.infos:
            raise CheckpointError(f"the model lacks {name}, which a folder needs")
        return self.infos[name].shape

    def values(self, name: str) -> list[float] | None:
        """The values of a tensor, as the shortest decimals; None if it is missing."""
        return [plain(value) for value in self._read(name).reshape(-1).tolist()] if name in self.infos else None


def plain(value: Any) -> Any:
    """A value of the metadata as JSON has it. Numbers of float32 are the shortest decimals that give them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        short = np.float32(value)
        return float(str(short)) if float(short) == value else float(value)
    return int(value) if isinstance(value, int) else value
