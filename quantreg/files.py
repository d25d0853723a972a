"""Open a model as a mapping of tensors."""

import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from quantreg import gguf
from quantreg.checkpoints.folder import is_published, read_folder
from quantreg.checkpoints.scratch import Scratch
from quantreg.errors import GGUFFormatError
from quantreg.html import table
from quantreg.registry import layout_of, types
from quantreg.safetensors import Read, Stored, is_safetensors, read_model
from quantreg.tensor import QuantizedTensor
from quantreg.whatis import model_path

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from quantreg.checkpoints.building import How
    from quantreg.parameters import Fitted

__all__ = ["File", "open"]


class _Place(NamedTuple):
    """Where a tensor is: its file, the mapping of the whole file, and the position of its data in both.

    ``stored`` says how to decode a tensor that is not described as the file stores it, and ``files`` holds the number,
    the path and the mapping of each file that it is made of.
    """

    info: gguf.TensorInfo
    path: str
    mapped: mmap.mmap
    start: int
    stored: "Stored | How | None" = None
    files: tuple[tuple[int, str, mmap.mmap], ...] = ()


class _Kept(NamedTuple):
    """What a tensor needs in order to find its parameters, which stays when the model is closed."""

    tensors: dict[str, _Place]
    views: "list[NDArray[np.uint8]]"  # a file with a view stays mapped

    def parameters(self, info: gguf.TensorInfo) -> "Fitted | None":
        """What the type of a tensor was fitted to, read from the tensors beside it."""
        qtype = types.get(info.type_id)
        return None if qtype is None else qtype.stored_parameters(info.name, info.shape, self._read)

    def _read(self, name: str) -> "NDArray[np.float32] | None":
        place = self.tensors.get(name)
        if place is None or place.info.type_name != "F32":
            return None
        return QuantizedTensor.from_info(place.info, _bytes_of(place)).dequantize()


def _bytes_of(place: _Place) -> "NDArray[np.uint8]":
    """The data of a tensor, mapped. Raises GGUFFormatError if the file has become too short for it."""
    return _piece(place.info.name, place.path, place.mapped, place.start, place.info.nbytes)


def _piece(name: str, path: str, mapped: mmap.mmap, start: int, nbytes: int) -> "NDArray[np.uint8]":
    end, now = start + nbytes, mapped.size()
    if end > now and nbytes:  # the process would die if it touched a page that no longer exists
        message = (
            f"data of tensor {name!r} ends at byte {end}, but the file has shrunk to {now}: restore the file and "
            "open it again"
        )
        raise GGUFFormatError("tensor-past-end", message, field=name, found=end, limit=now, path=path)
    return np.frombuffer(mapped, np.uint8)[start:end]


def _maker(place: _Place, how: "How | Stored", scratch: Scratch) -> "Callable[[], NDArray[np.uint8]]":
    """Return a function that makes the bytes of a tensor at its first call, and keeps them in a temporary file."""
    views = [np.frombuffer(mapped, np.uint8) for _, _, mapped in place.files]  # a file with a view stays mapped
    read = _reader(place)
    kept: list[NDArray[np.uint8]] = []
    lock = threading.Lock()

    def made() -> "NDArray[np.uint8]":
        with lock:
            if not kept:
                kept.append(scratch.keep(place.info.nbytes, lambda offset, buffer: how.read_into(read, offset, buffer)))
                del views[:]
        return kept[0]

    return made


def _reader(place: _Place) -> Read:
    """A function that reads the files of a tensor by their numbers."""
    files = {number: (path, mapped) for number, path, mapped in place.files}

    def read(file: int, position: int, out: "NDArray[np.uint8]") -> None:
        out[:] = _piece(place.info.name, *files[file], position, len(out))

    return read


def _decoder(place: _Place, stored: Stored) -> "Callable[[], NDArray[np.uint8]]":
    """Return a function that makes the bytes of a tensor which the file stores in another way.

    Raises GGUFFormatError, as the function does, if a file has become too short.
    """
    codes = _piece(place.info.name, place.path, place.mapped, stored.codes.position, stored.codes.nbytes)
    # A file with a view stays mapped.
    views = [codes, *(np.frombuffer(mapped, np.uint8) for _, _, mapped in place.files)]
    read = _reader(place)

    def decoded() -> "NDArray[np.uint8]":
        out = np.empty(place.info.nbytes, np.uint8)
        stored.read_into(read, 0, out)
        del views[:]
        return out

    return decoded


class File(Mapping[str, QuantizedTensor]):
    """An open model: a mapping from tensor name to `QuantizedTensor`, in file order. Made by `open`.

    - ``metadata``: a mapping from key to Python value (see `gguf.Metadata`). For a split model it is that of the first
      shard, without the ``split.`` keys. A safetensors model has none.
    - ``paths``: the files of the model.
    - ``headers``: one checked `gguf.Header` per file of a GGUF model; empty for safetensors.
    - ``warnings``: texts about what is odd but readable.

    Access to a tensor raises GGUFFormatError ("tensor-past-end") if the file has become too short for it.
    """

    headers: tuple[gguf.Header, ...]
    metadata: gguf.Metadata
    paths: tuple[str, ...]
    warnings: list[str]

    def __init__(self, path: str | bytes | os.PathLike[str], given: Mapping[str, Any] | None = None) -> None:
        self._tensors: dict[str, _Place] = {}
        self._maps: list[mmap.mmap] = []
        self._scratch: Scratch | None = None
        self._made: dict[str, Callable[[], NDArray[np.uint8]]] = {}
        try:
            if isinstance(path, (str, bytes, os.PathLike)) and is_published(os.fsdecode(path)):
                self._read_folder(os.fsdecode(path), given)
            elif is_safetensors(path := model_path(path)):
                self._read_safetensors(path)
            else:
                self._read_gguf(path)
        except BaseException:
            self.close()
            raise

    def _read_gguf(self, path: str) -> None:
        self.headers = gguf.read_shards(path, layout=layout_of)
        self.metadata = self.headers[0].metadata
        if len(self.headers) > 1:
            self.metadata = self.metadata.without(gguf.SPLIT_KEYS)
        self.warnings = [f"{header.path}: {text}" for header in self.headers for text in header.warnings]
        self.paths = tuple(str(header.path) for header in self.headers)
        for header, name in zip(self.headers, self.paths, strict=True):
            mapped = self._map(name, header.file_size)
            for info in header.tensors:
                self._tensors[info.name] = _Place(info, name, mapped, header.data_offset + info.offset)

    def _read_safetensors(self, path: str) -> None:
        model = read_model(path, any_dtype=True, decode=True)
        self.headers, self.metadata, self.warnings = (), gguf.Metadata(memoryview(b""), {}), model.warnings
        self.paths = tuple(model.paths)
        maps = [self._map(name, size) for name, size in zip(self.paths, model.sizes, strict=True)]
        for info, (number, start) in model.places.items():
            how = model.stored.get(info.name)
            files = tuple((n, self.paths[n], maps[n]) for n in (() if how is None else how.files))
            self._tensors[info.name] = _Place(info, self.paths[number], maps[number], start, how, files)

    def _read_folder(self, path: str, given: Mapping[str, Any] | None) -> None:
        model = read_folder(path, given)
        self.headers, self.metadata, self.warnings = (), gguf.Metadata.of(model.metadata), model.warnings
        self.paths = tuple(model.paths)
        self._scratch = Scratch()
        maps = [self._map(name, size) for name, size in zip(self.paths, model.sizes, strict=True)]
        for info, (number, start) in model.places.items():
            how = model.how.get(info.name)
            files = tuple((n, self.paths[n], maps[n]) for n in (() if how is None else how.files))
            self._tensors[info.name] = _Place(info, self.paths[number], maps[number], start, how, files)

    def _map(self, path: str, size: int) -> mmap.mmap:
        """Map a file, which must still have the size that it had when its header was read."""
        with _open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        if len(mapped) != size:
            message = (
                f"the file had {size} bytes and now has {len(mapped)}: wait until nothing writes it, and open it again"
            )
            raise GGUFFormatError("truncated", message, found=len(mapped), limit=size, path=path)
        return mapped

    def __getitem__(self, name: str) -> QuantizedTensor:
        place = self._tensors[name]
        if place.stored is not None and self._scratch is not None:
            made = self._made.get(name)
            if made is None:  # one for all threads: to make the tensor again would take its space again
                made = self._made.setdefault(name, _maker(place, place.stored, self._scratch))
            return QuantizedTensor.from_info(place.info, made)
        if isinstance(place.stored, Stored):
            return QuantizedTensor.from_info(place.info, _decoder(place, place.stored))
        data = _bytes_of(place)
        # The parameters may be in other files, which must stay mapped, too, when the model is closed.
        kept = _Kept(
            self._tensors, [data] if len(self._maps) == 1 else [np.frombuffer(m, np.uint8) for m in self._maps]
        )
        return QuantizedTensor.from_info(place.info, data, lambda: kept.parameters(place.info))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def close(self) -> None:
        """Forget the tensors and unmap the file. A tensor that is still in use keeps the file mapped."""
        self._tensors, self._made = {}, {}
        for mapped in self._maps:
            with suppress(BufferError):
                mapped.close()
        self._maps = []
        if self._scratch is not None:
            self._scratch.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"an open File does not pickle: pass its path, {self.paths[0]!r}, and open it there")

    def __repr__(self) -> str:
        return f"<quantreg.File {self.paths[0]!r}: {len(self)} tensors, {len(self.metadata)} keys>"

    def _repr_html_(self) -> str:
        infos = [place.info for place in self._tensors.values()]
        size, weights = sum(info.nbytes for info in infos), sum(info.n_elements for info in infos)
        bits = f", {size * 8 / weights:.4f} bits per weight" if weights else ""
        return table(
            f"{self.paths[0]}: {len(infos)} tensors, {size:,} bytes{bits}",
            ("tensor", "type", "shape", "bytes"),
            ((info.name, info.type_name, info.shape, info.nbytes) for info in infos),
        )


_open = open


def open(path: str | bytes | os.PathLike[str]) -> File:
    """Open a GGUF or safetensors model to read its metadata and tensors.

    ``path`` is a file, any shard of a split model, the index of a safetensors model, or a folder with one model. A
    folder with a config.json that names a class is opened as the GGUF model that it becomes: with its names, its
    metadata and its order of rows. Tensors that a folder stores in another way are made when they are first used, in a
    temporary file (in ``TMPDIR``).

    The result is a context manager and a mapping::

        with quantreg.open("m.gguf") as model:
            weights = model["token_embd.weight"].dequantize()

    The bytes of tensors are mapped, not read or copied, so do not shorten the file while you use them. A tensor that a
    safetensors model stores as FP8 is decoded with its scales when its data is first used, to BF16 if that holds the
    values exactly and to F32 if not. Tensors of another safetensors dtype that GGUF lacks have their raw bytes, flat,
    and cannot be decoded. Raises GGUFFormatError or
    SafetensorsError if a file is damaged or is not a model, TypeError if ``path`` is not a path, and OSError if a file
    cannot be read.
    """
    return File(path)
