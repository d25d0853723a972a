"""QuantType: what the rest of quantreg knows about a quant format."""

import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from quantreg.codec import RowCodec
from quantreg.errors import CodecError, PluginError, QuantregError, ShapeError
from quantreg.faults import PLUGIN_ERRORS, describe
from quantreg.ggml import TypeLayout
from quantreg.parameters import Parameters, TensorContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from quantreg.parameters import Fitted

__all__ = ["QuantType"]

LARGEST_ID = 2**31 - 1  # ggml's enum is a signed 32-bit integer
LARGEST_BLOCK = 2**16  # weights or bytes: a block lies within a row, and rows are not much longer than this


class QuantType:
    """A quant format: its GGUF identity, its block layout, and where its codec is.

    ``name`` and ``type_id`` are GGUF's ("Q4_K", 12). A row of n weights takes ``row_header_size`` + n /
    ``block_size`` * ``type_size`` bytes. ``fallback`` names the type to use for tensors whose rows do not divide into
    blocks, or is None. ``requires_importance`` marks a type that ggml does not encode without an importance matrix.
    ``codec`` is a function without arguments that loads the codec (`quantreg_kernels.load_codec`); it is called once,
    at the first encode or decode. ``parameters`` says what the type fits to each tensor, or is None. A registered type
    pickles by name.

    Raises PluginError for a name, an id or a layout that GGUF cannot hold.
    """

    name: str
    type_id: int
    block_size: int
    type_size: int
    row_header_size: int
    fallback: str | None
    requires_importance: bool
    layout: TypeLayout
    parameters: Parameters | None
    _find: ClassVar[Callable[[str], "QuantType"]]  # looks a type up by name; set by the registry

    def __init__(
        self,
        name: str,
        *,
        type_id: int,
        block_size: int,
        type_size: int,
        codec: Callable[[], RowCodec],
        fallback: str | None = None,
        requires_importance: bool = False,
        row_header_size: int = 0,
        parameters: Parameters | None = None,
    ) -> None:
        if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)):
            raise PluginError(f"type name {name!r}: use letters, digits and underscores, starting with a letter: MY_Q3")
        for what, size in (("block_size", block_size), ("type_size", type_size)):
            if not (isinstance(size, int) and 0 < size <= LARGEST_BLOCK):
                raise PluginError(f"type {name}: {what} is {size!r}; use an integer from 1 to {LARGEST_BLOCK}")
        if not (isinstance(row_header_size, int) and row_header_size >= 0):
            raise PluginError(f"type {name}: row_header_size is {row_header_size!r}; use a number of bytes, 0 for none")
        if not (isinstance(type_id, int) and 0 <= type_id <= LARGEST_ID):
            raise PluginError(f"type {name}: type_id is {type_id!r}; use an integer from 0 to {LARGEST_ID}")
        if not callable(codec):
            raise PluginError(f"type {name}: codec must be a function that loads the codec: codec=lambda: ...")
        if parameters is not None and not isinstance(parameters, Parameters):
            raise PluginError(f"type {name}: parameters is {parameters!r}; use quantreg.Parameters(...) or None")
        self.name = name
        self.type_id = type_id
        self.block_size = block_size
        self.type_size = type_size
        self.row_header_size = row_header_size
        self.fallback = fallback
        self.requires_importance = requires_importance
        self.parameters = parameters
        self.layout = TypeLayout(name, block_size, type_size, row_header_size)
        self._load = codec
        self._codec: RowCodec | None = None
        self._lock = threading.Lock()

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales included, from the block layout: 4.5 for Q4_K. A row header is not counted."""
        return self.type_size * 8 / self.block_size

    @property
    def compression_ratio(self) -> float:
        """How many times smaller than float32 the type is."""
        return 32 * self.block_size / (8 * self.type_size)

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of a row of n_cols weights. Raises ShapeError if n_cols is not a multiple of block_size."""
        try:
            return self.layout.row_bytes(n_cols)
        except ShapeError as error:
            if self.fallback is None:
                raise
            raise ShapeError(f"{error} (llama-quantize falls back to {self.fallback})") from None

    def row_weights(self, row_bytes: int) -> int:
        """Weights in a row of row_bytes bytes. Raises ShapeError if the row does not hold a whole number of blocks."""
        return self.layout.row_weights(row_bytes)

    @property
    def codec(self) -> RowCodec:
        """The codec, loaded at first use. Raises CodecError if it cannot be loaded or does not match this type."""
        if self._codec is None:
            with self._lock:
                if self._codec is None:
                    self._codec = self._load_codec()
        return self._codec

    @property
    def by_matrix(self) -> bool:
        """Whether the codec knows which matrix its rows belong to, so that rows of two matrices must not be mixed."""
        return self.parameters is not None or bool(getattr(self.codec, "wants_context", False))

    def codec_for(self, parameters: "Fitted | None", context: "TensorContext | None" = None) -> RowCodec:
        """The codec for the rows of one matrix: one that knows its fitted parameters and its context, if it wants them.

        ``parameters`` maps names to float32 arrays, or is None. Raises CodecError if the type needs parameters and
        there are none, or has none and is given some.
        """
        codec = self.codec
        if self.parameters is None:
            if parameters:
                raise CodecError(f"{self.name} has no parameters: leave {', '.join(parameters)} out")
        elif parameters is None and self.parameters.required:
            where = f"{context.name}: " if context is not None and context.name else ""
            raise CodecError(
                f"{where}{self.name} needs the parameters that were fitted to the tensor: pass parameters=, which "
                "quantreg.fit returns, or read the tensor from its file with quantreg.open"
            )
        bind = getattr(codec, "bind", None)
        if bind is None or (parameters is None and context is None):
            return codec
        bound: RowCodec = bind(parameters, context)
        return bound

    def stored_names(self, tensor: str, shape: tuple[int, ...]) -> dict[str, str]:
        """The names under which a file keeps the parameters of this tensor: parameter -> tensor in the file."""
        if self.parameters is None:
            return {}
        shapes = self.parameters.shapes_for(TensorContext(tensor, shape))
        return {name: self.parameters.stored_name(self.name, tensor, name) for name in shapes}

    def stored_parameters(
        self, tensor: str, shape: tuple[int, ...], read: "Callable[[str], NDArray[np.float32] | None]"
    ) -> "Fitted | None":
        """The parameters of a tensor in a file; ``read(name)`` returns a float32 tensor of the file, or None.

        Returns None if the file keeps none and the type can do without. Raises CodecError if it cannot, and ShapeError
        or NonFiniteError if they are not what the type expects.
        """
        if self.parameters is None:
            return None
        places = self.stored_names(tensor, shape)
        found = {name: values for name, place in places.items() if (values := read(place)) is not None}
        missing = [place for name, place in places.items() if name not in found]
        if not missing:
            return self.parameters.checked(self.name, found, TensorContext(tensor, shape))
        if self.parameters.required:
            raise CodecError(
                f"{tensor} is {self.name}, which cannot be decoded without the tensor {missing[0]}, and the file lacks "
                "it: restore it, or quantize the model again"
            )
        return None

    def _load_codec(self) -> RowCodec:
        try:
            codec = self._load()
        except (QuantregError, ImportError) as error:
            raise CodecError(f"the codec of {self.name} cannot be loaded: {error}") from error
        except PLUGIN_ERRORS as error:
            raise CodecError(f"the codec of {self.name} cannot be loaded: {describe(error)}") from error
        if not hasattr(codec, "encode_rows"):
            raise CodecError(
                f"the codec of {self.name} is {codec!r}: return what load_codec() or quantreg.PythonCodec() gives"
            )
        for field in ("type_id", "block_size", "type_size", "row_header_size"):
            found, expected = getattr(codec, field, getattr(self, field)), getattr(self, field)
            if found != expected:
                raise CodecError(f"the codec of {self.name} says {field} = {found}, but its plugin says {expected}")
        return codec

    def score(self, weights: "ArrayLike", columns: "ArrayLike") -> "NDArray[np.float32] | None":
        """Compute the error weights that the encoder itself uses under these column statistics.

        ``weights`` has shape (rows, cols) and ``columns`` (cols,). Returns float32 (rows, cols), or None if the type
        does not read importance.
        """
        import numpy as np  # slow to load, and plugin modules must load fast

        if not self.codec.has_scorer:
            return None
        rows = np.require(weights, np.float32, ["C", "A"])
        out = np.empty_like(rows)
        self.codec.score_rows(rows, np.require(columns, np.float32, ["C", "A"]), out)
        return out

    def __reduce__(self) -> tuple[Callable[[str], "QuantType"], tuple[str]]:
        return type(self)._find, (self.name,)

    def __repr__(self) -> str:
        return f"<QuantType {self.name}, id {self.type_id}, {self.bits_per_weight:g} bits per weight>"
