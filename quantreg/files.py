"""Opening a GGUF model as a mapping of tensors, and writing one."""

import mmap
from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from quantreg import gguf
from quantreg.errors import GGUFFormatError, ShapeError
from quantreg.ggml import PLAIN_TYPES, TYPES
from quantreg.registry import layout_of
from quantreg.storage import AtomicFile
from quantreg.tensor import QuantizedTensor

__all__ = ["File", "open", "write"]

# NumPy's name of a dtype -> type id
_TYPE_OF_DTYPE = {
    dtype: next(i for i, known in TYPES.items() if known.name == name) for name, dtype in PLAIN_TYPES.items()
}


class File(Mapping):
    """An open model: tensor name -> `QuantizedTensor`, in file order. Made by `open`.

    `metadata` maps keys to Python values (see `gguf.Metadata`; of several shards the first one's, without the
    ``split.`` keys), `headers` has one checked `gguf.Header` a shard, `warnings` what is odd but readable.
    """

    def __init__(self, path):
        self._tensors = {}
        self._maps = []
        self.headers = gguf.read_shards(path, layout=layout_of)
        self.metadata = self.headers[0].metadata
        if len(self.headers) > 1:
            self.metadata = self.metadata.without(gguf.SPLIT_KEYS)
        self.warnings = [f"{header.path}: {text}" for header in self.headers for text in header.warnings]
        try:
            for header in self.headers:
                data = self._map(header)
                for info in header.tensors:
                    self._tensors[info.name] = (info, data, header, self._maps[-1])
        except BaseException:
            self.close()
            raise

    def _map(self, header):
        """The data section of one file, as read-only bytes."""
        with _open(header.path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        if len(mapped) != header.file_size:
            message = f"the file had {header.file_size} bytes and now has {len(mapped)}"
            raise GGUFFormatError("truncated", message, found=len(mapped), limit=header.file_size, path=header.path)
        return np.frombuffer(mapped, np.uint8)[header.data_offset :]

    def __getitem__(self, name) -> QuantizedTensor:
        info, data, header, mapped = self._tensors[name]
        end, now = header.data_offset + info.offset + info.nbytes, mapped.size()
        if end > now and info.nbytes:  # touching a page that is no more would kill the process
            message = f"data of tensor {name!r} ends at byte {end}, but the file has shrunk to {now}"
            raise GGUFFormatError("tensor-past-end", message, field=name, found=end, limit=now, path=header.path)
        return QuantizedTensor.from_info(info, data[info.offset : info.offset + info.nbytes])

    def __iter__(self):
        return iter(self._tensors)

    def __len__(self):
        return len(self._tensors)

    def __contains__(self, name):
        return name in self._tensors

    def close(self) -> None:
        """Forget the tensors. Those that are still in use keep the file mapped until they are gone."""
        self._tensors = {}
        for mapped in self._maps:
            with suppress(BufferError):
                mapped.close()
        self._maps = []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        return f"<quantreg.File {self.headers[0].path!r}: {len(self)} tensors, {len(self.metadata)} keys>"


_open = open


def open(path) -> File:
    """Open a GGUF model to read its metadata and tensors; of a split model any shard will do.

    A context manager and a mapping: ``with quantreg.open("m.gguf") as model:
    model["token_embd.weight"].dequantize()``. The tensors' bytes are mapped, not read or copied: do not shorten the
    file while you use them. Raises GGUFFormatError for a damaged file, OSError for one that cannot be read.
    """
    return File(path)


def write(path, metadata, tensors, *, force: bool = False) -> None:
    """Write a GGUF file.

    `metadata` maps keys to values: Python objects, which get the type that `gguf.Value.of` finds, or typed ones such
    as ``gguf.Value("u64", 5)``; the metadata of an open file is copied byte for byte. `tensors` maps names to
    `QuantizedTensor` or NumPy arrays in NumPy order, of float16, 32, 64, bfloat16 (ml_dtypes) or int8 to int64. An
    open file does as well. The order is kept; ``general.alignment`` is obeyed. Nothing is added:
    ``general.architecture`` and such are yours to give.

    `path` appears only when it is complete, and replaces a file only with `force`. Raises GGUFFormatError for what
    GGUF cannot hold, ShapeError for other arrays, OutputError if the file cannot be written.
    """
    edit = gguf.HeaderEdit(metadata)
    stated = edit.get("general.alignment")
    alignment = stated.data if stated else gguf.DEFAULT_ALIGNMENT
    entries = [_entry(name, tensor) for name, tensor in tensors.items()]
    header = gguf.encode_header(edit.items(), [entry[:4] for entry in entries], alignment)
    size = len(header) + sum(gguf.padded(nbytes, alignment) for *_, nbytes, _ in entries)
    with AtomicFile(path, force=force, size=size) as file:
        file.write(header)
        for *_, nbytes, array in entries:
            file.write(_raw(array))
            file.write(bytes(-nbytes % alignment))


def _entry(name, tensor):
    """(name, dims in ne order, type id, size in bytes, array)."""
    if isinstance(tensor, QuantizedTensor):
        return name, tensor.shape[::-1], tensor.type_id, tensor.nbytes, tensor.data
    dtype = getattr(tensor, "dtype", None)
    if not isinstance(tensor, np.ndarray) or dtype.name not in _TYPE_OF_DTYPE:
        found = dtype or type(tensor).__name__
        raise ShapeError(f"{name}: cannot write {found}, only {', '.join(_TYPE_OF_DTYPE)} arrays and QuantizedTensor")
    return name, tensor.shape[::-1], _TYPE_OF_DTYPE[dtype.name], tensor.nbytes, tensor


def _raw(array):
    """The bytes of an array, little-endian in C order, copied only if they are not so yet."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
