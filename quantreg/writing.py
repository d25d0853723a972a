"""Write a GGUF file from tensors and arrays, holding no more of them in memory than the caller does."""

import builtins
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from quantreg import gguf
from quantreg.arrays import as_array, as_dtype, as_shape, bfloat16_bits, dtype_name
from quantreg.errors import OutputError, ShapeError
from quantreg.ggml import PLAIN_TYPES, TYPES
from quantreg.keywords import names_nearest
from quantreg.registry import find_layout, types
from quantreg.storage import AtomicFile
from quantreg.tensor import QuantizedTensor

if TYPE_CHECKING:
    from typing import SupportsIndex

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from quantreg.qtype import QuantType

    Tensor: TypeAlias = "QuantizedTensor | LazyTensor | ArrayLike"

__all__ = ["LazyTensor", "write"]

# NumPy's name of a dtype -> type id
_TYPE_OF_DTYPE = {
    dtype: next(i for i, known in TYPES.items() if known.name == name) for name, dtype in PLAIN_TYPES.items()
}
_CHUNK = 1 << 22  # bytes copied at a time


class LazyTensor:
    """A tensor that `quantreg.write` makes when it writes it, and does not keep in memory.

    - ``shape``: in NumPy order.
    - ``type``: a quant type (name, id or QuantType), or a dtype such as ``np.float16`` or ``"bfloat16"``.
    - ``make``: a function without arguments. It returns an array of this shape and dtype or, for a quant type, a
      `QuantizedTensor` or what `quantreg.quantize` returns.

    Raises ShapeError for a shape or dtype that GGUF cannot store, UnknownTypeError for an unknown type.
    """

    __slots__ = ("make", "nbytes", "shape", "type_id", "type_name")

    shape: tuple[int, ...]
    type_id: int
    type_name: str
    nbytes: int
    make: "Callable[[], QuantizedTensor | ArrayLike]"

    def __init__(
        self,
        shape: "Sequence[SupportsIndex]",
        type: "str | SupportsIndex | QuantType | DTypeLike",
        make: "Callable[[], QuantizedTensor | ArrayLike]",
    ) -> None:
        self.shape = as_shape(shape, "a LazyTensor")
        self.type_id, layout = find_layout(_type_key(type))
        self.type_name = layout.name
        self.nbytes = math.prod(self.shape[:-1]) * layout.row_bytes(self.shape[-1] if self.shape else 1)
        if not callable(make):
            raise ShapeError(f"make of a LazyTensor is {make!r:.80}: pass a function that returns the array")
        self.make = make

    def __repr__(self) -> str:
        return f"<LazyTensor {self.type_name} {self.shape}, {self.nbytes} bytes>"


@names_nearest
def write(
    path: str | bytes | os.PathLike[str],
    metadata: Mapping[str, object],
    tensors: "Mapping[str, Tensor | Callable[[], Tensor]] | Iterable[tuple[str, Tensor]]",
    *,
    force: bool = False,
) -> None:
    """Write a GGUF file.

    - ``metadata``: a mapping from key to value: a Python object, whose type `gguf.Value.of` picks, or a typed value
      such as ``gguf.Value("u64", 5)``. The metadata of an open file is copied byte for byte. No key is added, so
      include ``general.architecture`` and whatever else a loader needs. ``general.alignment`` is obeyed.
    - ``tensors``: a mapping, such as an open file or a state dict, from name to `QuantizedTensor`, NumPy array or torch
      tensor. Arrays have their axes in NumPy order and the dtype float16, float32, float64, bfloat16 or int8 to int64;
      a `quantreg.torch.GGUFTensor` is written as it is encoded. The order is kept.
    - ``force``: replace an existing file.

    A header states the size of each tensor, and comes first. So that not all tensors have to be in memory at once,
    a value may be a `LazyTensor`, which is made once, when it is written. It may also be a function that returns the
    tensor, and a mapping may make its values when they are asked for: these are made twice. Instead of a mapping give
    an iterable of pairs (name, tensor), such as a generator: its arrays are kept in a temporary file beside the output,
    which takes as much space on the disk as the output.

    The file appears at ``path`` only when it is complete. Raises GGUFFormatError for what GGUF cannot hold, ShapeError
    for other arrays, and for tensors that are not what they were when the header was made, and OutputError if the file
    cannot be written.
    """
    path = os.fsdecode(path)
    edit = gguf.HeaderEdit(metadata)
    stated = edit.get("general.alignment")
    alignment = gguf.rules.check_alignment(stated.type, stated.data) if stated else gguf.DEFAULT_ALIGNMENT
    with ExitStack() as stack:
        if isinstance(tensors, Mapping):
            entries = _of_mapping(tensors)
        else:
            AtomicFile(path, force=force).check()  # before work that may take long
            entries = _of_pairs(tensors, path, stack)
        header = gguf.encode_header(
            edit.items(), [(e.name, e.shape[::-1], e.type_id, e.nbytes) for e in entries], alignment
        )
        size = len(header) + sum(gguf.padded(entry.nbytes, alignment) for entry in entries)
        with AtomicFile(path, force=force, size=size) as file:
            file.write(header)
            for entry in entries:
                for piece in entry.pieces():
                    file.write(piece)
                file.write(bytes(-entry.nbytes % alignment))


class _Entry(NamedTuple):
    """A tensor of the file; ``pieces`` yields its bytes."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    nbytes: int
    pieces: "Callable[[], Iterable[NDArray[np.uint8] | bytes]]"
    lazy: bool = False


def _of_mapping(tensors: "Mapping[str, Any]") -> list[_Entry]:
    entries = []
    for name in tensors:
        value = tensors[_checked_name(name)]
        if isinstance(value, LazyTensor):
            entries.append(_lazy(name, value))
            continue
        value = _made(value)
        stored = _stored(name, value)
        fitted = list(_parameters(name, value))

        pieces = partial(_made_again, tensors, name, stored[:3], [_joined(extra) for extra in fitted])
        entries.append(_Entry(name, *stored[:3], pieces))
        for extra in fitted:
            if extra.name not in tensors:
                _add_parameter(entries, len(entries), extra, name)
            elif not isinstance(given := tensors[extra.name], LazyTensor):
                _check_same(extra, _entry(extra.name, _made(given)), name)
        del value, stored  # before the next one is made
    return entries


def _made_again(
    tensors: "Mapping[str, Any]", name: str, expected: tuple[Any, ...], parameters: list[bytes]
) -> "Iterator[NDArray[np.uint8]]":
    """Yield the bytes of a tensor of the mapping, which must be what it was when the header was made."""
    made = _made(tensors[name])
    again = _stored(name, made)
    if again[:3] != expected:
        raise ShapeError(
            f"{name}: was {_words(*expected[:2])} when the header was made, and is {_words(*again[:2])} now: "
            "make the same tensor each time, or pass a quantreg.LazyTensor"
        )
    if [_joined(extra) for extra in _parameters(name, made)] != parameters:
        raise ShapeError(
            f"{name}: its parameters are not those that it had when the header was made: make the same tensor each time"
        )
    yield again[3]


def _checked_pairs(pairs: Any) -> "Iterator[tuple[str, Any]]":
    way = "pass a mapping from name to tensor, or pairs (name, tensor), as in {tensor.name: tensor}.items()"
    if isinstance(pairs, str | bytes | np.ndarray | QuantizedTensor) or not isinstance(pairs, Iterable):
        raise TypeError(f"tensors is a {builtins.type(pairs).__name__}: {way}")
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise TypeError(f"tensors yields a {builtins.type(pair).__name__}, not a pair: {way}")
        yield _checked_name(pair[0]), pair[1]


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a tensor is {name!r:.80}, a {builtins.type(name).__name__}: use a str")
    return name


def _of_pairs(pairs: "Iterable[tuple[str, Any]]", path: str, stack: ExitStack) -> list[_Entry]:
    """Read an iterable of pairs once, and keep the bytes of its arrays in a temporary file."""
    entries: list[_Entry] = []
    extras: list[tuple[int, _Entry, str]] = []
    spool: IO[bytes] | None = None
    for name, value in _checked_pairs(pairs):
        if isinstance(value, LazyTensor):
            entries.append(_lazy(name, value))
            continue
        value = _made(value)
        shape, type_id, nbytes, data = _stored(name, value)
        try:
            if spool is None:
                spool = stack.enter_context(TemporaryFile(dir=os.path.dirname(os.path.realpath(path))))  # noqa: SIM115
            start = spool.tell()
            spool.write(data.data)
        except OSError as error:
            raise OutputError(
                f"{path}: its tensors cannot be kept in a temporary file beside it: {error.strerror or error}: free "
                "some space, choose another folder, or pass quantreg.LazyTensor objects"
            ) from error
        entries.append(_Entry(name, shape, type_id, nbytes, _read_back(spool, start, nbytes)))
        extras += ((len(entries), extra, name) for extra in _parameters(name, value))
    given = {entry.name: entry for entry in entries}
    lazy = {entry.name for entry in entries if entry.lazy}
    for place, extra, name in extras:
        if extra.name not in given:
            _add_parameter(entries, place + len(entries) - len(given), extra, name)
        elif extra.name not in lazy:
            _check_same(extra, given[extra.name], name)
    return entries


def _entry(name: str, tensor: Any) -> _Entry:
    shape, type_id, nbytes, data = _stored(name, tensor)
    return _Entry(name, shape, type_id, nbytes, partial(iter, [data]))


def _joined(entry: _Entry) -> bytes:
    return b"".join(bytes(piece) for piece in entry.pieces())


def _add_parameter(entries: list[_Entry], place: int, extra: _Entry, tensor: str) -> None:
    """Insert what a tensor was fitted to, unless another tensor of the file brought it: types may fit to a model."""
    for entry in entries:
        if entry.name == extra.name:
            _check_same(extra, entry, tensor)
            return
    entries.insert(place, extra)


def _check_same(extra: _Entry, given: _Entry, tensor: str) -> None:
    """Raise ShapeError if the file would hold other parameters than the ones that a tensor was encoded with."""
    if extra[2:4] != given[2:4] or _joined(extra) != _joined(given):
        raise ShapeError(
            f"{tensor}: it was encoded with other parameters than the {extra.name} that the file would hold, so it "
            f"would decode to wrong weights: leave {extra.name} out if it belongs to an older tensor; if the type is "
            "fitted to the whole model, encode all its tensors with the same parameters"
        )


def _read_back(spool: IO[bytes], start: int, nbytes: int) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        for offset in range(0, nbytes, _CHUNK):
            spool.seek(start + offset)
            yield spool.read(min(_CHUNK, nbytes - offset))

    return pieces


def _lazy(name: str, tensor: LazyTensor) -> _Entry:
    def pieces() -> "Iterator[NDArray[np.uint8]]":
        made = tensor.make()
        if isinstance(made, QuantizedTensor) and made.parameters:
            raise ShapeError(
                f"{name}: make() of its LazyTensor returned a tensor with parameters, which need a place in the "
                "header: pass a function that returns the QuantizedTensor instead of the LazyTensor"
            )
        plain = TYPES[tensor.type_id].name in PLAIN_TYPES if tensor.type_id in TYPES else False
        if not plain and not isinstance(made, QuantizedTensor):
            made = QuantizedTensor(name, tensor.shape, tensor.type_id, made)
        shape, type_id, _, data = _stored(name, made)
        if (shape, type_id) != (tensor.shape, tensor.type_id):
            raise ShapeError(
                f"{name}: make() of its LazyTensor returned {_words(shape, type_id)}, but it says "
                f"{_words(tensor.shape, tensor.type_id)}: correct one of the two"
            )
        yield data

    return _Entry(name, tensor.shape, tensor.type_id, tensor.nbytes, pieces, lazy=True)


def _parameters(name: str, tensor: object) -> Iterator[_Entry]:
    """Yield the parameters that a type fitted to a tensor: the file keeps them beside it."""
    parameters = tensor.parameters if isinstance(tensor, QuantizedTensor) else None
    if not isinstance(tensor, QuantizedTensor) or not parameters:
        return
    places = types[tensor.type_id].stored_names(name, tensor.shape)
    for key, values in parameters.items():
        yield _entry(places[key], values)


def _made(value: Any) -> Any:
    """Call a function that makes a tensor; return anything else as it is, but a GGUFTensor of torch with its bytes."""
    made = value() if callable(value) else value
    return made.__quantreg_tensor__() if hasattr(made, "__quantreg_tensor__") else made


def _stored(name: str, tensor: Any) -> "tuple[tuple[int, ...], int, int, NDArray[np.uint8]]":
    """Return (shape, type id, number of bytes, bytes) of a tensor or array, copied only if its layout differs."""
    if isinstance(tensor, QuantizedTensor):
        return tensor.shape, tensor.type_id, tensor.nbytes, _flat(tensor.data)
    dtype = tensor.dtype.name if isinstance(tensor, np.ndarray | np.generic) else dtype_name(tensor)
    if dtype not in _TYPE_OF_DTYPE:
        found = f"an array of {dtype}" if dtype else f"a {builtins.type(tensor).__name__}"
        raise ShapeError(
            f"{name}: cannot write {found}: convert it to a NumPy array of {', '.join(_TYPE_OF_DTYPE)}, or quantize it "
            "and pass a QuantizedTensor"
        )
    array = as_array(tensor, name)
    if dtype == "bfloat16" and array.dtype == np.float32:
        array = bfloat16_bits(array)  # from torch
    return array.shape, _TYPE_OF_DTYPE[dtype], array.nbytes, _flat(array)


def _flat(array: "NDArray[Any]") -> "NDArray[np.uint8]":
    """Return the bytes of an array, little-endian in C order."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def _words(shape: tuple[int, ...], type_id: int) -> str:
    return f"{TYPES[type_id].name if type_id in TYPES else f'type {type_id}'} of shape {shape}"


def _type_key(type: Any) -> Any:
    """The GGUF type id for a dtype, in any of its forms; anything else as it is."""
    dtype_like = isinstance(type, np.dtype | builtins.type) or str(type).startswith("torch.")
    if dtype_like or (isinstance(type, str) and type in _TYPE_OF_DTYPE):
        name = type if isinstance(type, str) else as_dtype(type).name
        if name not in _TYPE_OF_DTYPE:
            raise ShapeError(f"GGUF has no type for {name}: use one of {', '.join(_TYPE_OF_DTYPE)}, or a quant type")
        return _TYPE_OF_DTYPE[name]
    return type
