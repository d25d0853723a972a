"""Metadata values: how they are encoded, and a mapping that decodes them when asked."""

import struct
from collections.abc import Mapping

import numpy as np

from quantreg.errors import GGUFFormatError
from quantreg_kernels._gguf import read_strings

__all__ = ["Metadata", "Value"]

# The index is the number in the file.
VALUE_TYPES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64")
STRING = VALUE_TYPES.index("string")
ARRAY = VALUE_TYPES.index("array")
# struct and NumPy name the scalar types in two ways.
_STRUCT = dict(zip(VALUE_TYPES, "BbHhIif?--Qqd", strict=True))
_DTYPE = {
    name: np.dtype("?" if name == "bool" else f"<{name[0]}{int(name[1:]) // 8}")
    for name in VALUE_TYPES
    if name not in ("string", "array")
}


class Value:
    """A typed metadata value, encoded as it stands in a file.

    ``Value("u32", 5)``, ``Value("string", "llama")``, ``Value("array[f32]", [0.5, 1.0])``: the types are u8 to u64,
    i8 to i64, f32, f64, bool, string and arrays of these. `Value.of` picks the type from a Python object. Strings may
    be given as bytes. Raises GGUFFormatError ("bad-value") for what the type cannot hold.
    """

    __slots__ = ("raw", "type")

    def __init__(self, type: str, data):
        self.type = type
        try:
            self.raw = _encode(type, data)
        except (TypeError, ValueError, OverflowError, ArithmeticError, struct.error) as error:
            shown = repr(data)
            shown = shown if len(shown) <= 80 else shown[:80] + "..."
            message = f"{shown} is no metadata value of type {type!r}: {error}"
            raise GGUFFormatError("bad-value", message, found=data, limit=type) from None

    @classmethod
    def from_raw(cls, type: str, raw) -> "Value":
        """A value from its encoded bytes, which must be right for the type."""
        value = cls.__new__(cls)
        value.type, value.raw = type, raw
        return value

    @classmethod
    def of(cls, data) -> "Value":
        """A value of the type that fits a Python or NumPy object.

        bool, str and bytes as they are; int: u32, else i32, u64, i64, the first that holds it; float: f32; NumPy
        scalars and one-dimensional arrays by their dtype (float16 as f32); lists and tuples of one of these: as an
        array, where integers are i32, else u32, i64, u64. An empty list has no type: give a Value.
        """
        if isinstance(data, Value):
            return data
        return cls(_type_of(data), data)

    @property
    def data(self):
        """The value as bool, int, float, str, or a list of one of these."""
        return _decode(self.type, self.raw)

    @property
    def type_id(self) -> int:
        return ARRAY if self.type.startswith("array[") else VALUE_TYPES.index(self.type)

    def __eq__(self, other):
        return isinstance(other, Value) and self.type == other.type and bytes(self.raw) == bytes(other.raw)

    def __hash__(self):
        return hash((self.type, bytes(self.raw)))

    def __repr__(self):
        return f"Value({self.type!r}, {self.data!r})"


class Metadata(Mapping):
    """The keys of a GGUF file in its order; values are decoded each time they are asked for.

    ``metadata[key]`` is a bool, int, float, str or a list of these. Bytes in strings that are not UTF-8 appear as
    lone surrogates (the surrogateescape handler). `value` gives the same with its type and its bytes in the file,
    which is how a key is copied unchanged. Holds a buffer with the file's header, not the file.
    """

    def __init__(self, buffer=b"", spans=None):
        self._buffer = memoryview(buffer)
        self._spans = {} if spans is None else spans  # key -> (value type, element type, array length, start, end)

    def __getitem__(self, key):
        return self.value(key).data

    def __iter__(self):
        return iter(self._spans)

    def __len__(self):
        return len(self._spans)

    def __contains__(self, key):
        return key in self._spans

    def __repr__(self):
        return f"<Metadata of {len(self)} keys>"

    def value(self, key: str) -> Value:
        """The value with its type and encoded bytes, nothing decoded."""
        start, end = self._spans[key][3:]
        return Value.from_raw(self.value_type(key), self._buffer[start:end])

    def raw_items(self):
        """(key, Value) of every key in file order, nothing decoded: what `encode_header` takes."""
        return [(key, self.value(key)) for key in self._spans]

    def without(self, keys) -> "Metadata":
        """The same without some keys."""
        return Metadata(self._buffer, {key: span for key, span in self._spans.items() if key not in keys})

    def value_type(self, key: str) -> str:
        """Type of a key's value: "u32", "string", "array[string]" ..."""
        return type_name(*self._spans[key][:2])

    def array_length(self, key: str) -> int | None:
        """Number of elements of an array, None for any other value; nothing is decoded."""
        kind, _, length = self._spans[key][:3]
        return length if kind == ARRAY else None


def type_name(kind: int, element: int) -> str:
    """Name of a value type from the two numbers in the file; the second counts for arrays only."""
    return f"array[{VALUE_TYPES[element]}]" if kind == ARRAY else VALUE_TYPES[kind]


def _decode(type, raw):
    if type == "string":
        return bytes(raw[8:]).decode("utf-8", "surrogateescape")
    if not type.startswith("array["):
        return struct.unpack(f"<{_STRUCT[type]}", raw)[0]
    element = type[6:-1]
    if element == "string":
        return read_strings(raw, 12, struct.unpack_from("<Q", raw, 4)[0])
    return np.frombuffer(raw, _DTYPE[element], offset=12).tolist()


def _encode(type, data) -> bytes:
    if type == "string":
        return _encode_string(data)
    if type in _DTYPE:
        if isinstance(data, np.generic | np.ndarray):
            data = data.item()
        if (type == "bool") != isinstance(data, bool):
            raise TypeError("a bool and nothing else is a bool")
        return struct.pack(f"<{_STRUCT[type]}", data)
    element = type[6:-1]
    if type != f"array[{element}]" or element not in VALUE_TYPES or element == "array":
        raise TypeError(f"the types are {', '.join(VALUE_TYPES)}, with array as 'array[u32]'")
    head = struct.pack("<IQ", VALUE_TYPES.index(element), len(data))
    if element == "string":
        if isinstance(data, (str, bytes)):
            raise TypeError("one string is no array of strings")
        return head + b"".join(map(_encode_string, data))
    if element[0] in "ui" and not isinstance(data, np.ndarray):
        # NumPy would make floats of integers from 2^63 on.
        return head + struct.pack(f"<{len(data)}{_STRUCT[element]}", *data)
    return head + _encode_numbers(_DTYPE[element], np.asarray(data))


def _encode_string(text) -> bytes:
    if not isinstance(text, (str, bytes)):
        raise TypeError("expected str or bytes")
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _encode_numbers(dtype, array) -> bytes:
    allowed = {"b": "b", "f": "fiu"}.get(dtype.kind, "iu")
    if array.ndim != 1 or (array.size and array.dtype.kind not in allowed):
        raise TypeError(f"expected a one-dimensional array of {dtype.name}")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise OverflowError(f"{dtype.name} holds {limits.min} to {limits.max}")
    with np.errstate(over="raise"):
        return array.astype(dtype).tobytes()


def _type_of(data) -> str:
    if isinstance(data, (bool, np.bool_)):
        return "bool"
    if isinstance(data, (str, bytes)):
        return "string"
    if isinstance(data, np.generic | np.ndarray):
        kind, bits = data.dtype.kind, data.dtype.itemsize * 8
        name = "bool" if kind == "b" else "string" if kind == "U" else f"{kind}{max(bits, 32) if kind == 'f' else bits}"
        return f"array[{name}]" if data.ndim else name
    if isinstance(data, int):
        return _int_type(data, data, ("u32", "i32", "u64", "i64"))
    if isinstance(data, float):
        return "f32"
    if isinstance(data, (list, tuple)) and data:
        if all(isinstance(item, int) and not isinstance(item, bool) for item in data):
            return f"array[{_int_type(min(data), max(data), ('i32', 'u32', 'i64', 'u64'))}]"
        types = {_type_of(item) for item in data}
        if "f32" in types and types <= {"f32", "u32", "i32", "u64", "i64"}:
            return "array[f32]"
        if len(types) == 1:
            return f"array[{types.pop()}]"
    message = f"no metadata type for {data!r:.80}: give a Value, as in Value('array[string]', [])"
    raise GGUFFormatError("bad-value", message, found=data)


def _int_type(low, high, order) -> str:
    for name in order:
        limits = np.iinfo(_DTYPE[name])
        if limits.min <= low and high <= limits.max:
            return name
    raise GGUFFormatError("bad-value", f"no metadata type holds the integer {low if low < 0 else high}", found=low)
