"""QuantEmbedding: nn.Embedding on rows that stay quantized."""

from typing import TYPE_CHECKING

import torch

from quantreg.torch.decode import dequantize
from quantreg.torch.packed import Packed, encode, packed_of
from quantreg.torch.planes import planes_of

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike

    from quantreg.dispatch import TypeKey
    from quantreg.tensor import QuantizedTensor
    from quantreg.torch.lazy import GGUFTensor

__all__ = ["QuantEmbedding"]


class QuantEmbedding(torch.nn.Module):
    """A table of embeddings that holds the bytes of a GGUF tensor, and decodes the rows that it is asked for.

    The result has the dtype of the module, which ``half()`` and ``to(dtype)`` change. The table is frozen. ``packed``
    and ``weight`` are those of `QuantLinear`. The constructor makes a table without values, for `load_state_dict`; its
    arguments are those of nn.Embedding, with the type after the sizes. Raises UnknownTypeError, and ShapeError if
    embedding_dim is not a multiple of the block size.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        type: "TypeKey",
        padding_idx: int | None = None,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        name: str = "weight",
    ) -> None:
        super().__init__()
        self.num_embeddings: int = num_embeddings
        self.embedding_dim: int = embedding_dim
        self.padding_idx: int | None = padding_idx
        self.packed: Packed = Packed((num_embeddings, embedding_dim), type, name=name, device=device, dtype=dtype)

    @classmethod
    def from_embedding(
        cls,
        embedding: torch.nn.Embedding,
        type: "TypeKey",
        importance: "ArrayLike | None" = None,
        *,
        name: str = "weight",
    ) -> "Self":
        """Quantize a table of embeddings. Raises what `quantreg.quantize` raises."""
        packed = Packed.of(encode(embedding.weight, type, importance, name=name), embedding.weight.dtype)
        return cls.from_packed(packed, embedding.padding_idx)

    @classmethod
    def from_quantized(
        cls,
        tensor: "QuantizedTensor | GGUFTensor",
        padding_idx: int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> "Self":
        """Make a table on the bytes of a matrix (num_embeddings, embedding_dim): see `QuantLinear.from_quantized`."""
        return cls.from_packed(packed_of(tensor, dtype), padding_idx)

    @classmethod
    def from_packed(cls, packed: Packed, padding_idx: int | None = None) -> "Self":
        """Make a table on a module of bytes, which it shares with a tied output layer, for example."""
        made = cls.__new__(cls)
        torch.nn.Module.__init__(made)
        made.num_embeddings, made.embedding_dim = packed.shape
        made.padding_idx, made.packed = padding_idx, packed
        return made

    @property
    def weight(self) -> "GGUFTensor":
        """The table, (num_embeddings, embedding_dim), decoded when it is used."""
        return self.packed.decoded()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up integers of any shape: the result has the shape ids.shape + (embedding_dim,).

        Raises IndexError for an id beyond the table, and TypeError for what is not integers.
        """
        if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
            raise TypeError(f"ids are {ids.dtype}: pass integers, such as torch.int64")
        device, dtype = self.packed.bytes.device, self.packed.dtype
        if "meta" in (device.type, ids.device.type):
            return torch.empty((*ids.shape, self.embedding_dim), dtype=dtype, device="meta")
        flat = ids.detach().reshape(-1).cpu().numpy()
        if flat.size and (flat.min() < 0 or flat.max() >= self.num_embeddings):
            raise IndexError(
                f"ids hold {flat.min()} to {flat.max()}, but the table has {self.num_embeddings} rows, counted from 0"
            )
        encoded = self.packed.encoded
        planes = None if _decodes_rows(device, dtype) else planes_of(encoded)
        if planes is not None:
            there = ids.reshape(-1).to(device)
            return planes.rows(encoded.bytes, there, dtype).reshape(*ids.shape, self.embedding_dim)
        rows = encoded.rows(flat)
        if rows is None:  # a codec that knows the matrix, and so must see all of it
            found = dequantize(encoded, dtype, device)[ids.reshape(-1).to(device)]
        else:
            found = dequantize(rows, dtype, device)
        return found.reshape(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        """The sizes, the type and its bits per weight."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, type={self.packed.qtype.name}, "
            f"bits_per_weight={self.packed.qtype.bits_per_weight:.4g}{padding}"
        )


def _decodes_rows(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the processors decode the rows: it is their memory, or values are wanted that are not rounded."""
    return device.type == "cpu" or dtype.itemsize > 4
