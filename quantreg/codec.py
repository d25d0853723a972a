"""RowCodec: what every codec offers, compiled or in Python."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RowCodec"]


class RowCodec(Protocol):
    """A codec encodes and decodes rows of one quant type.

    `quantreg_kernels.load_codec` returns a compiled one, `quantreg.PythonCodec` is one in NumPy. The layout
    attributes must equal those of the QuantType. ``level`` is the CPU level in use ("base", "avx2", "avx512", "neon"
    or "python"), ``built`` names all levels that were built, and ``abi`` is the ABI number of a compiled codec.

    A codec may also have ``has_dot`` and, if that is true, ``dot_rows(data, x, out)``: the products of encoded rows,
    uint8 (rows, row bytes), with up to 7 rows of activations, float32 (n, cols), written to out, float32 (n, rows).
    """

    @property
    def type_id(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def type_size(self) -> int: ...
    @property
    def row_header_size(self) -> int: ...
    @property
    def level(self) -> str: ...
    @property
    def built(self) -> tuple[str, ...]: ...
    @property
    def abi(self) -> int | None: ...
    @property
    def can_encode(self) -> bool:
        """Whether the codec encodes as well as decodes."""
        ...

    @property
    def has_scorer(self) -> bool:
        """Whether encoding reads importance."""
        ...

    def encode_rows(
        self,
        x: "NDArray[np.float32]",
        out: "NDArray[np.uint8]",
        importance: "NDArray[np.float32] | None" = None,
        first_row: int = 0,
    ) -> None:
        """Encode x, float32 (rows, cols), into out, uint8 (rows, row bytes).

        ``importance`` is None, column statistics (cols,) or error weights (rows, cols), all float32. A row that holds
        NaN or infinity, or that overflows the type's scales, raises a ValueError whose ``row`` counts from
        ``first_row`` and whose ``column`` is the position of the NaN or infinity, or None.
        """
        ...

    def decode_rows(self, data: "NDArray[np.uint8]", out: "NDArray[np.float32]", stream: bool = False) -> None:
        """Decode data, uint8 (rows, row bytes), into out, float32 (rows, cols).

        ``stream`` asks the codec to write around the caches, for results that are larger than they are.
        """
        ...

    def score_rows(self, x: "NDArray[np.float32]", columns: "NDArray[np.float32]", out: "NDArray[np.float32]") -> None:
        """Write the encoder's error weights to out: x and out float32 (rows, cols), columns float32 (cols,)."""
        ...
