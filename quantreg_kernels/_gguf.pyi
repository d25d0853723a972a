from collections.abc import Callable

from typing_extensions import Buffer

MAX_COUNT: int
MAX_HEADER_BYTES: int
MAX_NAME_BYTES: int

class ScanError(Exception): ...

# name, offset of the name, value type, element type, array length, start of value, end of value
_TakeKey = Callable[[bytes, int, int, int, int, int, int], object]
# name, offset of the name, dims in ne order, type id, offset in the data section
_TakeTensor = Callable[[bytes, int, tuple[int, ...], int, int], object]

def scan(
    buffer: Buffer, size: int, more: Callable[[int], Buffer], take_key: _TakeKey, take_tensor: _TakeTensor
) -> tuple[int, int]: ...
def read_strings(buffer: Buffer, start: int, count: int) -> list[str]: ...
