"""Metadata values: their encoding in a file, and a mapping that decodes them on access."""

import math
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg.errors import GGUFFormatError
from quantreg_kernels._gguf import read_strings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

__all__ = ["Metadata", "Value"]

# The index of a name is the type's number in the file.
VALUE_TYPES: tuple[str, ...] = (
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64",
)  # fmt: skip
STRING: int = VALUE_TYPES.index("string")
ARRAY: int = VALUE_TYPES.index("array")
# Names of the scalar types in struct and in NumPy.
_STRUCT = dict(zip(VALUE_TYPES, "BbHhIif?--Qqd", strict=True))
_DTYPE = {
    name: np.dtype("?" if name == "bool" else f"<{name[0]}{int(name[1:]) // 8}")
    for name in VALUE_TYPES
    if name not in ("string", "array")
}


class Value:
    """A metadata value with its GGUF type, encoded as in a file.

    For example ``Value("u32", 5)``, ``Value("string", "llama")`` or ``Value("array[f32]", [0.5, 1.0])``. The types are
    u8 to u64, i8 to i64, f32, f64, bool, string, and arrays of these. Strings may be given as bytes. `Value.of` picks
    the type from a Python object.

    Raises GGUFFormatError ("bad-value") if the type cannot hold the data.
    """

    __slots__ = ("raw", "type")

    type: str
    raw: "bytes | memoryview"

    def __init__(self, type: str, data: Any) -> None:
        self.type = type
        try:
            self.raw = _encode(type, data)
        except (TypeError, ValueError, OverflowError, ArithmeticError, struct.error) as error:
            shown = repr(data)
            shown = shown if len(shown) <= 80 else shown[:80] + "..."
            message = f"{shown} is not a metadata value of type {type!r}: {error}: use another value or type"
            raise GGUFFormatError("bad-value", message, found=data, limit=type) from None

    @classmethod
    def from_raw(cls, type: str, raw: "bytes | memoryview") -> "Value":
        """Make a value from its encoded bytes, which the caller guarantees to be valid for the type."""
        value = cls.__new__(cls)
        value.type, value.raw = type, raw
        return value

    @classmethod
    def of(cls, data: object) -> "Value":
        """Make a value of the type that fits a Python or NumPy object; a Value is returned as it is.

        - bool becomes bool; str and bytes become string; float becomes f32.
        - int becomes the first of u32, i32, u64 and i64 that holds it.
        - NumPy scalars and one-dimensional arrays keep their dtype, except that float16 becomes f32. Arrays of texts or
          bytes become an array of strings.
        - Lists, tuples and ranges whose elements have one type become an array. Integers become the first of i32, u32,
          i64 and u64 that holds them all.
        - What a `Metadata` returned keeps the type that it had in the file.

        Raises GGUFFormatError ("bad-value") for anything else, and for an empty list, which has no type.
        """
        if isinstance(data, Value):
            return data
        if isinstance(data, np.ndarray) and data.dtype == object:
            data = data.tolist()  # texts from pandas, for example
        return cls(data.gguf_type if isinstance(data, (_Int, _Float, _List)) else _type_of(data), data)

    @property
    def data(self) -> Any:
        """The value as bool, int, float, str, or a list of one of these."""
        return _decode(self.type, self.raw)

    @property
    def type_id(self) -> int:
        """The number of the type in a file."""
        return ARRAY if self.type.startswith("array[") else VALUE_TYPES.index(self.type)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self.type == other.type and bytes(self.raw) == bytes(other.raw)

    def __hash__(self) -> int:
        return hash((self.type, bytes(self.raw)))

    def __reduce__(self) -> "tuple[Any, ...]":
        return Value.from_raw, (self.type, bytes(self.raw))

    def __repr__(self) -> str:
        return f"Value({self.type!r}, {_shortened(self.data)})"


class _Int(int):
    """An int from a file. It remembers its type there, so that ``{**metadata, key: value}`` keeps it."""

    gguf_type: str


class _Float(float):
    """A float from a file. It remembers its type there."""

    gguf_type: str


class _List(list[Any]):
    """An array from a file. It remembers its type there, which an empty list could not show."""

    gguf_type: str


class Metadata(Mapping[str, Any]):
    """The metadata of a GGUF file: a mapping in file order that decodes a value each time it is accessed.

    ``metadata[key]`` is a bool, int, float, str or a list of one of these. In strings, bytes that are not valid UTF-8
    appear as lone surrogates (the surrogateescape handler). Numbers and lists remember their type in the file, so
    ``{**metadata, key: value}`` and ``metadata | {key: value}`` can be written without loss; what is computed from them
    are plain numbers. `value` returns the type and the encoded bytes. Holds a buffer with the header of the file; the
    file itself may be closed.
    """

    def __init__(
        self, buffer: "Buffer" = b"", spans: Mapping[str, tuple[int, int, int, int, int]] | None = None
    ) -> None:
        self._buffer = memoryview(buffer)
        # key -> (value type, element type, array length, start, end)
        self._spans: Mapping[str, tuple[int, int, int, int, int]] = {} if spans is None else spans

    def __getitem__(self, key: str) -> Any:
        return _remembering(self.value_type(key), self.value(key).data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def __contains__(self, key: object) -> bool:
        return key in self._spans

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self} if isinstance(other, Mapping) else NotImplemented

    def __reduce__(self) -> "tuple[Any, ...]":
        return Metadata, (bytes(self._buffer), dict(self._spans))

    def __repr__(self) -> str:
        return f"<Metadata of {len(self)} keys>"

    def value(self, key: str) -> Value:
        """The value with its type and encoded bytes. Nothing is decoded. Raises KeyError for an unknown key."""
        start, end = self._spans[key][3:]
        return Value.from_raw(self.value_type(key), self._buffer[start:end])

    def raw_items(self) -> list[tuple[str, Value]]:
        """The (key, Value) pairs in file order, as `encode_header` takes them. Nothing is decoded."""
        return [(key, self.value(key)) for key in self._spans]

    @classmethod
    def of(cls, items: Mapping[str, Value]) -> "Metadata":
        """Metadata with these values, in this order."""
        parts, spans, position = [], {}, 0
        for key, value in items.items():
            raw = bytes(value.raw)
            element, length = struct.unpack_from("<IQ", raw) if value.type_id == ARRAY else (0, 0)
            spans[key] = (value.type_id, element, length, position, position + len(raw))
            position += len(raw)
            parts.append(raw)
        return cls(b"".join(parts), spans)

    def without(self, keys: Collection[str]) -> "Metadata":
        """Return the same metadata without some keys."""
        return Metadata(self._buffer, {key: span for key, span in self._spans.items() if key not in keys})

    def value_type(self, key: str) -> str:
        """The type of a value: "u32", "string", "array[string]" and so on. Raises KeyError for an unknown key."""
        return type_name(*self._spans[key][:2])

    def array_length(self, key: str) -> int | None:
        """The number of elements of an array, or None if the value is not an array. Nothing is decoded."""
        kind, _, length = self._spans[key][:3]
        return length if kind == ARRAY else None


def _remembering(type: str, data: Any) -> Any:
    """The value with its type; a plain one if `Value.of` would choose the same type again."""
    holder = {int: _Int, float: _Float, list: _List}.get(data.__class__)
    if holder is None or (holder is not _List and _type_of(data) == type):
        return data
    typed = holder(data)
    typed.gguf_type = type
    return typed


def _shortened(data: Any) -> str:
    """The repr of a value, cut where an array or a text is long."""
    if isinstance(data, list) and len(data) > 8:
        return f"[{', '.join(map(_shortened, data[:8]))}, ... {len(data) - 8:,} more]"
    text = repr(data)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(data):,} characters)"


def type_name(kind: int, element: int) -> str:
    """Name a value type, given its number and, for an array, that of its elements."""
    return f"array[{VALUE_TYPES[element]}]" if kind == ARRAY else VALUE_TYPES[kind]


def _decode(type: str, raw: bytes | memoryview) -> Any:
    if type == "string":
        return bytes(raw[8:]).decode("utf-8", "surrogateescape")
    if not type.startswith("array["):
        return struct.unpack(f"<{_STRUCT[type]}", raw)[0]
    element = type[6:-1]
    if element == "string":
        return read_strings(raw, 12, struct.unpack_from("<Q", raw, 4)[0])
    return np.frombuffer(raw, _DTYPE[element], offset=12).tolist()


def _encode(type: str, data: Any) -> bytes:
    if type == "string":
        return _encode_string(data)
    if type in _DTYPE:
        if isinstance(data, np.generic | np.ndarray):
            data = data.item()
        if (type == "bool") != isinstance(data, bool):
            raise TypeError("True and False have the type bool, and it holds nothing else")
        _check_range(type, [data])
        return struct.pack(f"<{_STRUCT[type]}", data)
    element = type[6:-1]
    if type != f"array[{element}]" or element not in VALUE_TYPES or element == "array":
        if element.startswith("array"):
            raise TypeError("arrays of arrays are not supported: store one flat array and its shape, or text as JSON")
        raise TypeError(f"the types are {', '.join(VALUE_TYPES)}; write an array of u32 as 'array[u32]'")
    head = struct.pack("<IQ", VALUE_TYPES.index(element), len(data))
    if element == "string":
        if isinstance(data, (str, bytes)):
            raise TypeError("one string is not an array of strings")
        if isinstance(data, np.ndarray) and data.ndim != 1:
            raise TypeError("expected a one-dimensional array of strings")
        return head + b"".join(map(_encode_string, data))
    if element[0] in "ui" and not isinstance(data, np.ndarray):
        # NumPy would turn integers from 2^63 on into floats.
        try:
            return head + struct.pack(f"<{len(data)}{_STRUCT[element]}", *data)
        except struct.error:
            _check_range(element, data)
            raise
    return head + _encode_numbers(_DTYPE[element], np.asarray(data))


def _check_range(type: str, data: "Iterable[Any]") -> None:
    """Raise OverflowError or TypeError, which state the range, for the first number that a scalar type cannot hold."""
    if type == "f32":
        largest = float(np.finfo(np.float32).max)
        if any(isinstance(number, (int, float)) and largest < abs(number) < math.inf for number in data):
            raise OverflowError(f"f32 holds numbers up to {largest:.7g}")
    elif type[0] in "ui":
        limits = np.iinfo(_DTYPE[type])
        for number in data:
            if not isinstance(number, (int, np.integer)):
                raise TypeError(f"{type} holds whole numbers from {limits.min} to {limits.max}")
            if not limits.min <= number <= limits.max:
                raise OverflowError(f"{type} holds {limits.min} to {limits.max}")


def _encode_string(text: object) -> bytes:
    if isinstance(text, np.ndarray) and not text.ndim:
        text = text.item()
    if not isinstance(text, (str, bytes)):
        raise TypeError("expected str or bytes")
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _encode_numbers(dtype: "np.dtype[Any]", array: "NDArray[Any]") -> bytes:
    allowed = {"b": "b", "f": "fiu"}.get(dtype.kind, "iu")
    if array.ndim != 1 or (array.size and array.dtype.kind not in allowed):
        raise TypeError(f"expected a one-dimensional array of {dtype.name}")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise OverflowError(f"{dtype.name} holds {limits.min} to {limits.max}")
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype).tobytes()
    except FloatingPointError:
        raise OverflowError(f"{dtype.name} holds numbers up to {np.finfo(dtype).max:.7g}") from None


def _type_of(data: object) -> str:
    if isinstance(data, (bool, np.bool_)):
        return "bool"
    if isinstance(data, (str, bytes)):
        return "string"
    if isinstance(data, np.generic | np.ndarray):
        kind, bits = data.dtype.kind, data.dtype.itemsize * 8
        name = {"b": "bool", "U": "string", "S": "string"}.get(kind, f"{kind}{max(bits, 32) if kind == 'f' else bits}")
        if name in VALUE_TYPES:
            return f"array[{name}]" if data.ndim else name
        raise GGUFFormatError(
            "bad-value", f"no metadata type holds NumPy's {data.dtype}: convert the value", found=data
        )
    if isinstance(data, int):
        return _int_type(data, data, ("u32", "i32", "u64", "i64"))
    if isinstance(data, float):
        return "f32"
    if isinstance(data, (list, tuple, range)) and len(data):
        if all(isinstance(item, int) and not isinstance(item, bool) for item in data):
            return f"array[{_int_type(min(data), max(data), ('i32', 'u32', 'i64', 'u64'))}]"
        types = {_type_of(item) for item in data}
        if "f32" in types and types <= {"f32", "u32", "i32", "u64", "i64"}:
            return "array[f32]"
        if len(types) == 1:
            return f"array[{types.pop()}]"
    ways = {
        type(None): "leave the key out",
        dict: "store each of its values under a key of its own, or text as JSON",
        list: "give a typed Value, as in Value('array[string]', [])",
        tuple: "give a typed Value, as in Value('array[string]', [])",
    }
    way = ways.get(type(data), "convert it to bool, int, float, str or a list of one of these")
    if isinstance(data, (list, tuple)) and data:
        way = "its elements differ in type: make them of one type, such as str"
    shown = repr(data)
    message = f"{shown if len(shown) <= 80 else shown[:80] + '...'} has no metadata type of its own: {way}"
    raise GGUFFormatError("bad-value", message, found=data)


def _int_type(low: int, high: int, order: tuple[str, ...]) -> str:
    for name in order:
        limits = np.iinfo(_DTYPE[name])
        if limits.min <= low and high <= limits.max:
            return name
    numbers = f"{low}" if low == high else f"both {low} and {high}"
    message = f"no integer type of GGUF holds {numbers}: store smaller numbers, or text"
    raise GGUFFormatError("bad-value", message, found=low)
