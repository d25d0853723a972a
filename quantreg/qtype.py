"""QuantType: what the rest of quantreg knows about a quant format."""

import re
import threading
from fractions import Fraction

from quantreg.errors import CodecError, PluginError, QuantregError, ShapeError

__all__ = ["QuantType"]

LARGEST_ID = 2**31 - 1  # ggml's enum is a signed 32-bit integer
LARGEST_BLOCK = 2**16  # weights and bytes: a block lies within a row, and no model has rows of more than a few of these


class QuantType:
    """A quant format: its GGUF identity, its block layout, and where its codec is.

    ``name`` and ``type_id`` are GGUF's ("Q4_K", 12). A row of n weights takes ``row_header_size`` + n /
    ``block_size`` * ``type_size`` bytes. ``fallback`` names the type for tensors whose rows do not divide by the
    block, or is None. ``requires_importance``: ggml refuses to encode it without an importance matrix. ``codec`` is a
    function without arguments that loads the codec (`quantreg_kernels.load_codec`), called once, at the first encode
    or decode. Pickles by name. PluginError for a name, an id or a layout that cannot be.
    """

    def __init__(
        self,
        name,
        *,
        type_id,
        block_size,
        type_size,
        codec,
        fallback=None,
        requires_importance=False,
        row_header_size=0,
    ):
        if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)):
            raise PluginError(f"type name {name!r}: use letters, digits and underscores, a letter first, as in MY_Q3")
        for what, size in (("block_size", block_size), ("type_size", type_size)):
            if not (isinstance(size, int) and 0 < size <= LARGEST_BLOCK):
                raise PluginError(f"type {name}: {what} is {size!r}, it must be an integer in 1 .. {LARGEST_BLOCK}")
        if not (isinstance(row_header_size, int) and row_header_size >= 0):
            raise PluginError(f"type {name}: row_header_size must be a number of bytes, 0 for none")
        if not (isinstance(type_id, int) and 0 <= type_id <= LARGEST_ID):
            raise PluginError(f"type {name}: type_id is {type_id!r}, it must be an integer in 0 .. {LARGEST_ID}")
        if not callable(codec):
            raise PluginError(f"type {name}: codec must be a function that loads the codec: codec=lambda: ...")
        self.name = name
        self.type_id = type_id
        self.block_size = block_size
        self.type_size = type_size
        self.row_header_size = row_header_size
        self.fallback = fallback
        self.requires_importance = requires_importance
        self._load = codec
        self._codec = None
        self._lock = threading.Lock()

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight takes, scales included, from the block layout: 4.5 for Q4_K. A row header is not counted."""
        return self.type_size * 8 / self.block_size

    @property
    def compression_ratio(self) -> float:
        """How many times smaller than float32."""
        return 32 * self.block_size / (8 * self.type_size)

    @property
    def exact_bits_per_weight(self) -> Fraction:
        return Fraction(self.type_size * 8, self.block_size)

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of a row of n_cols weights; ShapeError if n_cols is not a multiple of block_size."""
        if n_cols % self.block_size:
            raise ShapeError(
                f"{self.name} packs {self.block_size} weights a block: a row of {n_cols} weights does not divide"
                + (f" (llama-quantize falls back to {self.fallback})" if self.fallback else "")
            )
        return self.row_header_size + n_cols // self.block_size * self.type_size

    def row_weights(self, row_bytes: int) -> int:
        """Weights of a row of row_bytes bytes; ShapeError if no whole number of blocks fits."""
        body = row_bytes - self.row_header_size
        if body < 0 or body % self.type_size:
            raise ShapeError(
                f"{row_bytes} bytes a row are no whole number of {self.name} blocks ({self.type_size} bytes each)"
            )
        return body // self.type_size * self.block_size

    @property
    def codec(self):
        """The codec, loaded at first use; CodecError if it cannot be loaded or does not match this type."""
        if self._codec is None:
            with self._lock:
                if self._codec is None:
                    self._codec = self._load_codec()
        return self._codec

    def _load_codec(self):
        try:
            codec = self._load()
        except (QuantregError, ImportError) as error:
            raise CodecError(f"the codec of {self.name} cannot be loaded: {error}") from error
        except Exception as error:  # the function is the plugin's: anything may come out of it
            raise CodecError(f"the codec of {self.name} cannot be loaded: {type(error).__name__}: {error}") from error
        if not hasattr(codec, "encode_rows"):
            raise CodecError(
                f"the codec of {self.name} is {codec!r}: return what load_codec() or quantreg.PythonCodec() gives"
            )
        for field in ("type_id", "block_size", "type_size", "row_header_size"):
            if getattr(codec, field, getattr(self, field)) != getattr(self, field):
                says, expected = getattr(codec, field), getattr(self, field)
                raise CodecError(f"the codec of {self.name} says {field} = {says}, its plugin says {expected}")
        return codec

    def score(self, weights, columns):
        """The encoder's own error weights: float32 (rows, cols) from weights (rows, cols) and columns (cols,).

        None if the type reads no importance.
        """
        import numpy as np

        if not self.codec.has_scorer:
            return None
        weights = np.require(weights, np.float32, "CA")
        out = np.empty_like(weights)
        self.codec.score_rows(weights, np.require(columns, np.float32, "CA"), out)
        return out

    def __repr__(self):
        return f"<QuantType {self.name}, id {self.type_id}, {self.bits_per_weight:g} bits per weight>"

    def __reduce__(self):
        return _by_name, (self.name,)


def _by_name(name):
    from quantreg.registry import types

    return types[name]
