"""Reading the data of a model piece by piece, without mapping it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from quantreg import gguf
from quantreg.dispatch import decode_slab
from quantreg.errors import GGUFFormatError
from quantreg.ggml import REMOVED_LAYOUTS, REMOVED_TYPES, TypeLayout
from quantreg.parameters import TensorContext, without_tokenizer
from quantreg.registry import layout_of, types
from quantreg.safetensors import Read
from quantreg.storage import PositionedFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantreg.parameters import Fitted

__all__ = ["DataFile", "How", "Source", "stamp_of"]


class How(Protocol):
    """How to read a tensor that the files store in another way: `safetensors.Stored` and those of `checkpoints.made`.

    It pickles. ``files`` are the numbers of the files that it reads, and ``read_into(read, offset, buffer)`` fills the
    buffer with the bytes of the tensor from ``offset`` on, where ``read(file, position, out)`` reads a file.
    """

    @property
    def files(self) -> tuple[int, ...]: ...

    def read_into(self, read: Read, offset: int, buffer: "NDArray[np.uint8]") -> None: ...


class Source:
    """A GGUF model to read: the checked headers of all its shards, and its tensor data piece by piece.

    ``metadata`` and ``tensors`` (TensorInfo, in file order) are what a recipe looks at; ``paths`` are the shards and
    ``size`` counts their bytes together. A context manager: the files are open inside it. Data is read with pread, so
    that memory does not grow with the file, and a file that shrinks gives an error instead of a crash.

    With ``partial``, a shard whose siblings are missing is read alone, and with ``any_type``, types that ggml has
    removed are accepted; warnings say so. ``max_dims`` is that of `gguf.read_header`. ``keeps_dims`` says whether an
    output has all dimensions of the source. ``stored`` says how to read tensors that the file stores in another way
    than their TensorInfo describes, by name.

    Raises GGUFFormatError, OSError.
    """

    keeps_dims: bool = False
    headers: tuple[gguf.Header, ...]
    metadata: Mapping[str, Any]
    tensors: tuple[gguf.TensorInfo, ...]
    paths: list[str]
    size: int
    warnings: list[str]
    stored: "dict[str, How]"

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        *,
        partial: bool = False,
        any_type: bool = False,
        max_dims: int = gguf.MAX_DIMS,
    ) -> None:
        layout = _any_layout if any_type else layout_of
        headers = gguf.read_shards(path, layout=layout, partial=partial, max_dims=max_dims)
        self._fill(
            headers=headers,
            metadata=headers[0].metadata,
            places={
                info: (shard, header.data_offset + info.offset)
                for shard, header in enumerate(headers)
                for info in header.tensors
            },
            paths=[str(header.path) for header in headers],
            size=sum(header.file_size for header in headers),
            warnings=[f"{header.path}: {text}" for header in headers for text in (*header.warnings, *_removed(header))],
        )

    def _fill(
        self,
        *,
        headers: tuple[gguf.Header, ...],
        metadata: Mapping[str, Any],
        places: Mapping[gguf.TensorInfo, tuple[int, int]],
        paths: list[str],
        size: int,
        warnings: list[str],
        stored: "Mapping[str, How] | None" = None,
    ) -> None:
        self.headers, self.metadata, self.tensors = headers, metadata, tuple(places)
        self.paths, self.size, self.warnings, self.stored = paths, size, warnings, dict(stored or {})
        self._place = {info.name: place for info, place in places.items()}
        self._by_name = {info.name: info for info in self.tensors}
        self._parameters: dict[str, Fitted | None] = {}
        self._facts: dict[str, Any] | None = None
        self._files: list[DataFile] = []
        self._by_path: dict[str, DataFile] = {}

    def describe(self, infos: Mapping[str, gguf.TensorInfo], metadata: Mapping[str, Any]) -> None:
        """Replace the description of the model; ``infos`` maps the names so far to the new TensorInfos.

        Tensors that it does not mention are left out. The data stays where it is.
        """
        self.metadata, self.tensors = metadata, tuple(infos.values())
        self._place = {info.name: self._place[old] for old, info in infos.items()}
        self._by_name = {info.name: info for info in self.tensors}
        self.stored = {info.name: self.stored[old] for old, info in infos.items() if old in self.stored}
        self._parameters, self._facts = {}, None

    @property
    def is_described(self) -> bool:
        """Whether the source says what model it is: a GGUF file does, and bare safetensors files do not."""
        return bool(self.headers)

    def place(self, info: gguf.TensorInfo) -> tuple[int, int]:
        """The number of a tensor's file in ``paths``, and the position of its data in that file."""
        return self._place[info.name]

    def parameters(self, info: gguf.TensorInfo) -> "Fitted | None":
        """The parameters that a type fitted to a tensor, or None if it has none or the file keeps none.

        The source must be open. Raises CodecError if the type cannot be decoded without them.
        """
        qtype = types.get(info.type_id)
        if qtype is None or qtype.parameters is None:
            return None
        if info.name not in self._parameters:
            self._parameters[info.name] = qtype.stored_parameters(info.name, info.shape, self._floats_of)
        return self._parameters[info.name]

    def _floats_of(self, name: str) -> "NDArray[np.float32] | None":
        """The F32 tensor with this name, or None."""
        info = self._by_name.get(name)
        if info is None or info.type_name != "F32":
            return None
        values = np.empty(info.nbytes, np.uint8)
        self.read_into(info, 0, values)
        return values.view("<f4").reshape(info.shape)

    def parameter_names(self) -> set[str]:
        """The names of the tensors that hold fitted parameters, and so belong to other tensors."""
        found = set()
        for info in self.tensors:
            qtype = types.get(info.type_id)
            if qtype is not None and qtype.parameters is not None:
                found |= set(qtype.stored_names(info.name, info.shape).values())
        return found

    def context(self, info: gguf.TensorInfo, expert: int | None = None) -> TensorContext:
        """What a codec may know of a tensor of the source, and of the matrix in it."""
        if self._facts is None:
            self._facts = without_tokenizer(self.metadata)
        return TensorContext(info.name, info.shape, self._facts, expert)

    def decode(self, info: gguf.TensorInfo, first: int, n_rows: int) -> "NDArray[np.float32]":
        """Decode some rows of a tensor, counted over all its matrices: float32 (n_rows, cols)."""
        raw = np.empty((n_rows, info.row_bytes), np.uint8)
        self.read_into(info, first * info.row_bytes, raw.reshape(-1))
        out = np.empty((n_rows, info.n_cols), np.float32)
        qtype, parameters = types[info.type_id], self.parameters(info)
        together = max(1, info.matrix_rows)
        done = 0
        while done < n_rows:
            matrix = (first + done) // together
            here = min(n_rows, (matrix + 1) * together - first)
            codec = qtype.codec_for(parameters, self.context(info, matrix))
            decode_slab(qtype, codec, raw[done:here], out[done:here], tensor=info.name)
            done = here
        return out

    def __enter__(self) -> Self:
        self._files = []
        try:
            for path in self.paths:
                self._files.append(DataFile(path))
            self._by_path = {os.path.abspath(file.path): file for file in self._files}
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files, self._by_path = [], {}

    def file(self, path: str) -> "DataFile":
        """The open file with this absolute path, one of ``paths``."""
        return self._by_path[path]

    def read_into(self, info: gguf.TensorInfo, offset: int, buffer: Any) -> None:
        """Fill the writable buffer with the bytes of a tensor from `offset` on.

        Raises GGUFFormatError "tensor-past-end" if the file has shrunk since its header was read.
        """
        shard, start = self._place[info.name]
        how = self.stored.get(info.name)
        if how is None:
            self._files[shard].read_into(start + offset, buffer, info.name)
        else:
            how.read_into(
                lambda file, position, out: self._files[file].read_into(position, out, info.name), offset, buffer
            )


def _any_layout(type_id: int) -> TypeLayout | None:
    return layout_of(type_id) or REMOVED_LAYOUTS.get(type_id)


def _removed(header: gguf.Header) -> Iterator[str]:
    """Say which tensors have types that ggml has removed."""
    for name, number in Counter(t.type_name for t in header.tensors if t.type_id in REMOVED_TYPES).items():
        tensors = f"{number} tensor has" if number == 1 else f"{number} tensors have"
        yield f"{tensors} type {name}, which ggml has removed: no engine reads it; quantize the original model again"


def stamp_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """The size of a file and the time of its last change in ns, which tell whether it is still the same file."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


class DataFile:
    """An open file from which several threads read at once.

    With ``stamp``, the file must still be the one it was when `stamp_of` gave the stamp: GGUFFormatError otherwise.
    """

    def __init__(self, path: str, stamp: tuple[int, int] | None = None) -> None:
        if stamp is not None and stamp_of(path) != tuple(stamp):
            message = "the file has changed since the run began: start the run again"
            raise GGUFFormatError("source-changed", message, path=path)
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._positioned = PositionedFile(self._file.fileno())

    def read_into(self, position: int, buffer: Any, name: str) -> None:
        """Fill the buffer from this position on; ``name`` is the tensor that a message names."""
        view = memoryview(buffer).cast("B")
        count = self._positioned.read_into(view, position)
        if count < len(view):
            raise GGUFFormatError(
                "tensor-past-end", f"data of tensor {name!r}: the file shrank while it was read",
                offset=position + count, field=name, path=self.path,
            )  # fmt: skip

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()
