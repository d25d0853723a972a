"""ScaledCodec: one float32 scale per matrix for a codec whose blocks hold only a limited range."""

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.codec import RowCodec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.parameters import Fitted, TensorContext

__all__ = ["ScaledCodec"]


class ScaledCodec:
    """A codec for weights divided by a scale: one float32 per matrix, the parameter ``scale`` of the tensor.

    ``codec`` encodes what remains. ``largest`` is the largest magnitude that it can hold. Without parameters the scale
    is 1, and the bytes are those of ``codec``. All other attributes are those of ``codec``.
    `quantreg.scale_parameters` makes the parameters of such a type.
    """

    def __init__(self, codec: RowCodec, largest: float) -> None:
        self._codec = codec
        self.largest: float | None = largest
        self._scale = np.float32(1)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_codec":  # while it is being copied or unpickled
            raise AttributeError(name)
        return getattr(self._codec, name)

    def bind(self, parameters: "Fitted | None", context: "TensorContext | None") -> "ScaledCodec":
        """The codec for the matrix that the context names, with its scale."""
        if parameters is None:
            return self
        bound = copy(self)
        bound.largest = None  # the scale was chosen so that nothing is larger
        scales = parameters["scale"]
        expert = 0 if context is None or len(scales) == 1 else context.expert or 0
        bound._scale = np.float32(scales[expert])
        return bound

    def encode_rows(
        self,
        x: "NDArray[np.float32]",
        out: "NDArray[np.uint8]",
        importance: "NDArray[np.float32] | None" = None,
        first_row: int = 0,
    ) -> None:
        """Divide x by the scale and encode it (see `RowCodec.encode_rows`)."""
        self._codec.encode_rows(x if self._scale == 1 else x / self._scale, out, importance, first_row)

    def decode_rows(self, data: "NDArray[np.uint8]", out: "NDArray[np.float32]", stream: bool = False) -> None:
        """Decode the data and multiply it by the scale (see `RowCodec.decode_rows`)."""
        self._codec.decode_rows(data, out, stream)
        if self._scale != 1:
            with np.errstate(invalid="ignore", over="ignore"):  # of a damaged file
                out *= self._scale

    def score_rows(self, x: "NDArray[np.float32]", columns: "NDArray[np.float32]", out: "NDArray[np.float32]") -> None:
        """Write the error weights of the encoder (see `RowCodec.score_rows`)."""
        self._codec.score_rows(x / self._scale, columns, out)
