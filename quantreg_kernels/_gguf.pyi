from collections.abc import Callable

from typing_extensions import Buffer

MAX_COUNT: int
MAX_HEADER_BYTES: int
MAX_NAME_BYTES: int

class ScanError(Exception): ...

# name offset, name length, value type, element type, array length, start of value, end of value
_Key = tuple[int, int, int, int, int, int, int]
# name offset, name length, dims in ne order, type id, offset in the data section
_Tensor = tuple[int, int, tuple[int, ...], int, int]

def scan(
    buffer: Buffer, size: int, more: Callable[[int], Buffer] | None = None
) -> tuple[int, list[_Key], list[_Tensor], int]: ...
def read_strings(buffer: Buffer, start: int, count: int) -> list[str]: ...
