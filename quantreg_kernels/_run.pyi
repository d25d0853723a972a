from typing import Any

import numpy as np
from numpy.typing import NDArray

def first_nonfinite(x: NDArray[np.float32]) -> int: ...

class RowError(ValueError):
    row: int
    column: int | None
    def __init__(self, row: int, column: int | None) -> None: ...

class Codec:
    level: str
    built: tuple[str, ...]
    lower: dict[str, Codec]
    abi: int
    type_id: int
    block_size: int
    type_size: int
    row_header_size: int
    def __init__(
        self,
        capsule: Any,
        level: str = "base",
        built: tuple[str, ...] = ("base",),
        lower: dict[str, Codec] | None = None,
    ) -> None: ...
    @property
    def can_encode(self) -> bool: ...
    @property
    def whole_rows(self) -> bool: ...
    @property
    def has_scorer(self) -> bool: ...
    def encode_rows(
        self,
        x: NDArray[np.float32],
        out: NDArray[np.uint8],
        importance: NDArray[np.float32] | None = None,
        first_row: int = 0,
    ) -> None: ...
    def decode_rows(self, data: NDArray[np.uint8], out: NDArray[np.float32], stream: bool = False) -> None: ...
    @property
    def has_dot(self) -> bool: ...
    def dot_rows(self, data: NDArray[np.uint8], x: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
    def score_rows(self, x: NDArray[np.float32], columns: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
